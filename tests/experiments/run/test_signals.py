import hashlib
import os
import signal
import threading

import pytest

from experiments.run import signals
from experiments.run.signals import StopRequest


def test_the_first_signal_asks_and_a_second_interrupt_interrupts():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background jobs
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_what_is_waited_for_is_said_at_once_and_once(monkeypatch):
    """Also while the main thread computes and does not listen, as in a compilation."""
    said, computed = [], []
    monkeypatch.setattr(signals, "say", lambda line: said.append((line, list(computed))))
    with StopRequest() as stop:
        stop.first = "step 7 is finished and saved"
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # a second or more, deaf to signals
        computed.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    assert said == [("asked to stop: first step 7 is finished and saved. Ctrl-C interrupts that.", [])]
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_before_there_was_nothing_left_to_save_ends_the_process_then(capsys):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.at(1)
        with pytest.raises(SystemExit) as end:
            stop.leave_at_once()
    assert end.value.code == 0 and "the same command goes on" in capsys.readouterr().out


def test_with_nothing_left_to_save_a_signal_ends_the_process_well(capsys):
    with StopRequest() as stop:
        stop.leave_at_once()
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 0 and "the same command goes on" in capsys.readouterr().out
