"""The progress display: lines off a terminal, a bar on one, and the terminal as it was afterwards."""

import io
import os
import pty
import re
import subprocess
import sys
import types
import warnings

import pytest

from experiments.run.progress import KINDS, duration, progress


def run(bar, steps=5, rate=100.0):
    with bar:
        bar.stage(0, 2, 512)
        for step in range(1, steps + 1):
            bar.update(step, 100 * step, 2.5 / step, rate)


def test_plain_lines_show_everything():
    stream = io.StringIO()
    bar = progress(1000, stream)
    run(bar)
    bar.note("saved step 5")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 1 | stage 1/2 (512) | loss 2.5000 | 100 tokens/s | 9 s left"
    assert len(lines) == 6 and lines[-1] == "saved step 5"


def test_held_back_lines_keep_the_first_and_the_last_and_every_stage():
    stream = io.StringIO()
    with progress(1000, stream, every_seconds=1e6) as bar:
        for stage, steps in enumerate(((1, 2, 3), (4, 5, 6))):
            bar.stage(stage, 2, 512 << stage)
            for step in steps:
                bar.update(step, 100 * step, 1.0, 100.0)
    assert re.findall(r"step (\d)", stream.getvalue()) == ["1", "4", "6"]


def test_the_last_line_comes_after_an_exception_too():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress(1000, stream, every_seconds=1e6) as bar:
        bar.update(1, 1, 1.0, 1.0)
        bar.update(2, 2, 1.0, 1.0)
        raise KeyboardInterrupt
    assert re.findall(r"step (\d)", stream.getvalue()) == ["1", "2"]


def test_time_left_is_that_of_the_mean_speed_of_the_last_minutes(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr("experiments.run.progress.time", types.SimpleNamespace(monotonic=lambda: clock.now))
    stream = io.StringIO()
    bar = progress(100_000, stream)

    def update(at, tokens, latest):
        clock.now = at
        bar.update(1, tokens, 1.0, latest)
        return stream.getvalue().splitlines()[-1].split(" | ")[-1]

    bar.stage(0, 2, 512)
    assert update(10.0, 1000, 50.0) == "33:00 left"  # the first: 99,000 at 50
    assert update(20.0, 2000, 1e6) == "16:20 left"  # 98,000 at 1000 in 10 s
    assert update(40.0, 7000, 1.0) == "7:45 left"  # 93,000 at 6000 in 30 s
    assert (
        update(330.0, 13_000, 1.0) == "40:52 left"
    )  # 10 s is out of the window, 20 s its edge: 87,000 at 11000 in 310
    bar.stage(1, 2, 1024)
    assert update(1000.0, 20_000, 10.0) == "2:13:20 left"  # another stage: 80,000 at 10
    assert update(1001.0, 20_000, 0.0) == "0 tokens/s"


def test_a_held_out_loss_stands_beside_the_other():
    stream = io.StringIO()
    with progress(1000, stream) as bar:
        bar.update(1, 100, 2.5, 100.0, 2.75)
    assert stream.getvalue() == "step 1 | loss 2.5000 | held out 2.7500 | 100 tokens/s | 9 s left\n"


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (59.6, "1:00"), (187, "3:07"), (7509, "2:05:09")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_notebook_bar(capsys):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        run(progress(500, kind="notebook"))
    assert "loss 0.5000" in capsys.readouterr().err
    assert set(KINDS) == {"terminal", "notebook", "plain"}


SCRIPT = """
from experiments.run.progress import progress
with progress(1000) as bar:
    bar.stage(0, 2, 512)
    bar.update(1, 100, 2.5, 100.0)
    print("printed in between")
    bar.note("a [note] with brackets")
    raise RuntimeError("training failed")
"""


def test_terminal_bar_and_restored_cursor():
    main, side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=side,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": ".", "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(side)
        output = b""
        try:
            while chunk := os.read(main, 4096):
                output += chunk
        except OSError:  # Linux's end of file on a terminal
            pass
        os.close(main)
        errors = process.communicate(timeout=30)[1].decode()
    text = output.decode()
    assert "training failed" in errors
    for part in ("stage 1/2 (512)", "loss 2.5000", "100 tokens/s", "9 s left", "printed in between", "a [note] with"):
        assert part in text
    assert text.count("\x1b[?25l") == 1 and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
