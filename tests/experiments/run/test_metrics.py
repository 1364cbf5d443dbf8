"""metrics.jsonl survives crashes and resumes as if the run had never stopped."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.run.metrics import FILE, Metrics, check_start, dump, read, read_counted
from longctx.config import Config
from longctx.errors import UserError

STAGES = {0: 0, 1: 4}  # stage -> the step it starts after


def record_run(workdir, first, last, resume_step=None):
    with Metrics(workdir, resume_step) as metrics:
        for step in range(first, last + 1):
            for stage, start in STAGES.items():
                if step == start + 1 or (step == first and step > start):  # a resumed run announces its stages again
                    metrics.stage({"stage": stage, "seq_len": 512 << stage, "step": start})
            metrics.step({"step": step, "stage": int(step > 4), "loss": 1 / step})


def test_lines_are_strict_json(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.stage({"stage": 0, "seq_len": 8, "step": 0})
        metrics.step({"step": np.int64(1), "loss": np.float32(0.5), "norm": float("nan"), "rate": [np.inf, 1.0]})
    lines = (tmp_path / FILE).read_text().splitlines()
    assert (
        [json.loads(line, parse_constant=pytest.fail) for line in lines]
        == read(tmp_path)
        == [
            {"event": "stage", "stage": 0, "seq_len": 8, "step": 0},
            {"step": 1, "loss": 0.5, "norm": None, "rate": [None, 1.0]},
        ]
    )


@pytest.mark.parametrize("resume_step", range(0, 9))
@pytest.mark.parametrize("tear", [0, 1, 7])
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path, resume_step, tear):
    record_run(tmp_path / "whole", 1, 10)
    record_run(tmp_path / "cut", 1, 8)
    path = tmp_path / "cut" / FILE
    path.write_bytes(path.read_bytes()[: -tear or None])
    kept = min(resume_step, 7 if tear else 8)
    record_run(tmp_path / "cut", kept + 1, 10, resume_step=kept)
    assert path.read_bytes() == (tmp_path / "whole" / FILE).read_bytes()


def test_a_new_run_starts_a_new_file_and_keeps_the_old_ones(tmp_path, capsys):
    for last in (3, 4, 2):
        record_run(tmp_path, 1, last)
    logged = lambda name: [record["step"] for record in read(tmp_path / name) if "event" not in record]
    assert [logged(name) for name in (FILE, "metrics-1.jsonl", "metrics-2.jsonl")] == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert capsys.readouterr().out == "".join(f"{FILE} of an earlier start is now metrics-{n}.jsonl\n" for n in (1, 2))


MISTYPED = [
    b'{"step": "3"}',
    b'{"step": -1}',
    b'{"step": 3.5}',
    b'{"step": null}',
    b'{"step": true}',
    b'{"step": 3, "loss": "low"}',
    b'{"step": 3, "seq_len": [512]}',
    b'{"event": "stage", "step": 3}',
    b'{"event": "stage", "stage": {}, "seq_len": 8, "step": 3}',
    b'{"step": 3, "tokens": 1' + b"0" * 400 + b"}",
    b'{"step": ' + b"1" * 5000 + b"}",
    b"[1, 2]",
    b"[" * 100_000,
    b'"text"',
    b"\xff\xfe{\x00}\x00",
    b"",
]


def test_lines_that_are_no_records_are_left_out_and_counted(tmp_path, capsys):
    record_run(tmp_path, 1, 6)
    whole = (tmp_path / FILE).read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join([*lines[:3], *(line + b"\n" for line in MISTYPED), *lines[3:]]) + b'{"st')
    assert read_counted(tmp_path) == (read(tmp_path), len(MISTYPED)) and len(read(tmp_path)) == len(lines)
    Metrics(tmp_path, 6).close()
    assert (tmp_path / FILE).read_bytes() == whole
    assert capsys.readouterr().out == f"{FILE}: {len(MISTYPED)} lines were no records, and are left out\n"


@pytest.mark.parametrize(
    "spoil, use, message",
    [
        (lambda path: path.mkdir(), read, "Is a directory"),
        (lambda path: path.mkdir(), lambda workdir: Metrics(workdir, 3), "Is a directory"),
        (lambda path: path.with_suffix(".tmp").mkdir(), Metrics, r"metrics\.tmp cannot be written: Is a directory"),
        (
            lambda path: path.with_name("tensorboard").write_text(""),
            lambda workdir: Metrics(workdir, config=Config()),
            r"log.trackers=\('tensorboard',\): tensorboard cannot begin: File exists",
        ),
    ],
)
def test_files_that_cannot_be_used_are_one_line(tmp_path, spoil, use, message):
    spoil(tmp_path / FILE)
    with pytest.raises(UserError, match=message) as caught:
        use(tmp_path)
    assert "\n" not in str(caught.value)


FULL = """
import errno, os, resource, signal, sys
from experiments.run.metrics import Metrics
from experiments.run.trackers import TensorBoard
from longctx.config import Config
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
TensorBoard.EVERY_S = 0.0
with Metrics(sys.argv[1], config=Config(), note=lambda line: print("note:", line)) as metrics:
    for step in range(1, 60):
        if step == 6:
            limit(300)                      # of any file: metrics.jsonl in the middle of a line, events too
        if step == 50:
            limit(resource.RLIM_INFINITY)
        metrics.step({"step": step, "loss": 0.5, "text": "x" * 20})
"""


def test_a_full_disk_costs_lines_and_no_more(tmp_path):
    """And does not hang: TensorBoard's events are not written in a thread that dies."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        timeout=60,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert (done.returncode, done.stderr) == (0, "")
    logged = [record["step"] for record in read(tmp_path)]
    lost = 50 - logged[logged.index(50) - 1] - 1
    assert read_counted(tmp_path)[1] == 0 and logged[-10:] == list(range(50, 60)) and lost > 30
    assert sorted(done.stdout.splitlines()) == sorted(
        [
            f"note: {FILE}: File too large; step {50 - lost} is not recorded, and training goes on",
            f"note: {FILE}: {lost} lines before step 50 could not be written",
            "note: tensorboard: File too large; it gets no more numbers, and training goes on",
        ]
    )


def lose(workdir, *names):
    """The workdir of a run that logged three steps, without some of what it had."""
    record_run(workdir, 1, 3)
    (workdir / "checkpoints").mkdir()
    (workdir / "checkpoints" / "LOCK").touch()
    for name in names:
        path = workdir / name
        path.unlink() if path.is_file() else path.rmdir()


def test_logged_steps_without_checkpoints_stop_a_start(tmp_path):
    lose(tmp_path, "checkpoints/LOCK")  # where a disk is mounted, and is not now
    with pytest.raises(UserError, match=r"with step 3, but no checkpoint.*--config\.checkpoint\.start_over=True"):
        check_start(tmp_path, start_over=False)
    check_start(tmp_path, start_over=True)


@pytest.mark.parametrize("lost", [(), ("metrics.jsonl",), ("metrics.jsonl", "checkpoints/LOCK", "checkpoints")])
def test_a_start_that_loses_nothing_is_not_stopped(tmp_path, lost):
    """One that was killed before its first checkpoint has the lock; a fresh one has nothing."""
    lose(tmp_path, *lost)
    check_start(tmp_path, start_over=False)


def test_a_stage_that_has_only_begun_loses_nothing(tmp_path):
    (tmp_path / FILE).write_text('{"event": "stage", "stage": 0, "seq_len": 8, "step": 0}\n')
    check_start(tmp_path, start_over=False)


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3, "text": "\xc3', b"12", b"\x00" * 20])
def test_what_a_crash_tore_is_left_out(tmp_path, torn):
    record_run(tmp_path, 1, 2)
    with (tmp_path / FILE).open("ab") as file:
        file.write(torn)
    assert [record["step"] for record in read(tmp_path / FILE)] == [0, 1, 2]


def test_a_killed_process_loses_no_line(tmp_path):
    code = (
        "import os, sys\nfrom experiments.run.metrics import Metrics\n"
        "metrics = Metrics(sys.argv[1], None)\n"
        "for step in range(1, 6): metrics.step({'step': step})\n"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], timeout=60, env={**os.environ, "PYTHONPATH": "."}
    )
    assert killed.returncode == -9
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3, 4, 5]


def test_tensorboard_events_and_purge(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    for resume_step in (None, 1):
        with Metrics(tmp_path, resume_step, Config()) as metrics:
            metrics.step({"step": 2, "loss": 0.5, "grad_norm": None})
    events = []
    for path in sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:  # TFRecord: length, crc, payload, crc
            size = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    tags = [(value.tag, event.step) for event in events for value in event.summary.value]
    assert tags.count(("train/loss", 2)) == 2 and not any(tag == "train/grad_norm" for tag, _ in tags)
    assert [event.step for event in events if event.HasField("session_log") and event.session_log.status == 1] == [2]


def test_dump_refuses_what_json_cannot_hold():
    assert dump({"x": float("-inf")}) == '{"x": null}'
    with pytest.raises(TypeError):
        dump({"x": object()})
