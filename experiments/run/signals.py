"""A polite end: SIGTERM (preemption) and Ctrl-C ask the run to save and leave at the next step."""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

from experiments.run import processes


class StopRequest:
    """Within the context, the first SIGTERM or SIGINT only asks to stop; a second Ctrl-C interrupts as usual.

    `at(step)`, called after every step, says whether to stop there, and so does `asked` from then on. Of several
    processes one needs to be asked: jax's preemption service, which then has the signal, finds a step for all of them.
    (If that would be after the last, nothing stops.)

    What is done before the run leaves, `first`, is said on stderr as soon as the signal comes: by a thread, for Python
    gives it to the main one only when a compilation or a step on the device is over. (Of several processes SIGTERM
    goes to jax alone, and process 0 says it at the step that was found.)

    Once there is nothing left to save, `leave_at_once()`: a signal then, or one before, ends the process with
    processes.stopped_code().

    again: the command that goes on, in words.
    """

    def __init__(self, again: str = "the same command"):
        self.asked, self._again = False, again
        self.first = "the run is set up; there is no new step to save yet"
        self._at_once = False
        self._several = jax.process_count() > 1

    def at(self, step: int) -> bool:
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            if not self.asked:
                print(f"asked to stop: step {step} is the last, in all processes", flush=True)
            self.asked = True
        return self.asked

    def leave_at_once(self) -> None:
        self._at_once = True
        self.first = "what is being computed ends; training is saved"
        signal.signal(signal.SIGTERM, self._ask)
        if self.asked:
            self._leave()

    def __enter__(self):
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        reader, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._wakeup_before = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        self._teller = threading.Thread(target=self._tell, args=(reader,), daemon=True)
        self._teller.start()
        for number in (signal.SIGINT,) if self._several else self._before:
            signal.signal(number, self._ask)
        return self

    def _tell(self, reader: int) -> None:
        """Reads the number of each signal as it arrives, and says the first time what is waited for."""
        told = False
        while numbers := os.read(reader, 64):
            if not told and any(number in numbers for number in self._before):
                told = True
                say(f"asked to stop: first {self.first}. Ctrl-C interrupts that.")
        os.close(reader)

    def _ask(self, number, frame):
        if self._at_once:
            self._leave()
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)  # Ctrl-C: pass it on to jax
        else:
            self.asked = True

    def _leave(self):
        print(f"stopped after training, which is saved; {self._again} goes on from there", flush=True)
        processes.end(processes.stopped_code())

    def __exit__(self, *_):
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._pipe)
        self._teller.join()  # which ends with the pipe
        for number, handler in self._before.items():
            signal.signal(number, handler)


def say(line: str) -> None:
    """A line on stderr from a thread, or wherever a signal came: not through Python's buffers, which may be in use."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
