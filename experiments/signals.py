"""A polite end: SIGTERM (preemption) and Ctrl-C ask the run to save and leave at the next step."""
import signal
import sys


class StopRequest:
    """Within the context, the first SIGTERM or SIGINT only sets `asked`; a second Ctrl-C interrupts as usual.

    Once there is nothing left to save, `leave_at_once()`: a signal then ends the process with exit code 0.
    """

    def __init__(self):
        self.asked = False
        self._at_once = False

    def leave_at_once(self) -> None:
        self._at_once = True

    def __enter__(self):
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _ask(self, number, frame):
        if self._at_once:
            print("stopped after training, which is saved; the same command goes on from there", flush=True)
            sys.exit(0)
        self.asked = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
