"""The progress display: lines off a terminal, a bar on one, and the terminal as it was afterwards."""

import io
import os
import pty
import re
import subprocess
import sys
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


def test_time_left_counts_tokens_at_the_latest_speed():
    stream = io.StringIO()
    with progress(100_000, stream) as bar:
        bar.update(1, 50_000, 1.0, 1000.0)
        bar.update(2, 60_000, 1.0, 10.0)
        bar.update(3, 60_000, float("nan"), 0.0)
    ends = [line.split(" | ")[-1] for line in stream.getvalue().splitlines()]
    assert ends == ["50 s left", "1:06:40 left", "0 tokens/s"]


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
