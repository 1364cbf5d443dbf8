"""A polite end: SIGTERM (preemption) and Ctrl-C ask the run to save and leave at the next step."""
import os
import signal

import jax
from jax.experimental import multihost_utils

from experiments import processes


class StopRequest:
    """Within the context, the first SIGTERM or SIGINT only asks to stop; a second Ctrl-C interrupts as usual.

    `at(step)`, called after every step, says whether to stop there, and so does `asked` from then on. Of several
    processes one needs to be asked: jax's preemption service, which then has the signal, finds a step for all of them.
    (If that would be after the last, nothing stops.)

    Once there is nothing left to save, `leave_at_once()`: a signal then, or one before, ends the process with exit
    code 0.
    """

    def __init__(self):
        self.asked = False
        self._at_once = False
        self._several = jax.process_count() > 1

    def at(self, step: int) -> bool:
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self.asked = True
        return self.asked

    def leave_at_once(self) -> None:
        self._at_once = True
        signal.signal(signal.SIGTERM, self._ask)
        if self.asked:
            self._leave()

    def __enter__(self):
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in (signal.SIGINT,) if self._several else self._before:
            signal.signal(number, self._ask)
        return self

    def _ask(self, number, frame):
        if self._at_once:
            self._leave()
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)        # Ctrl-C: pass it on to jax
        else:
            self.asked = True

    def _leave(self):
        print("stopped after training, which is saved; the same command goes on from there", flush=True)
        processes.end(0)

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
