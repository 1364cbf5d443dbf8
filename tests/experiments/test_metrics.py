"""metrics.jsonl survives crashes and resumes as if the run had never stopped."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.metrics import FILE, Metrics, dump, read

STAGES = {0: 0, 1: 4}                                                   # stage -> the step it starts after


def record_run(workdir, first, last, resume_step=None):
    with Metrics(workdir, resume_step, tensorboard=False) as metrics:
        for step in range(first, last + 1):
            for stage, start in STAGES.items():
                if step == start + 1 or (step == first and step > start):   # a resumed run announces its stages again
                    metrics.stage({"stage": stage, "seq_len": 512 << stage, "step": start})
            metrics.step({"step": step, "stage": int(step > 4), "loss": 1 / step})


def test_lines_are_strict_json(tmp_path):
    with Metrics(tmp_path, tensorboard=False) as metrics:
        metrics.stage({"stage": 0, "seq_len": 8, "step": 0})
        metrics.step({"step": np.int64(1), "loss": np.float32(0.5), "norm": float("nan"), "rate": [np.inf, 1.0]})
    lines = (tmp_path / FILE).read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == read(tmp_path) == [
        {"event": "stage", "stage": 0, "seq_len": 8, "step": 0},
        {"step": 1, "loss": 0.5, "norm": None, "rate": [None, 1.0]},
    ]


@pytest.mark.parametrize("resume_step", range(0, 9))
@pytest.mark.parametrize("tear", [0, 1, 7])
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path, resume_step, tear):
    record_run(tmp_path / "whole", 1, 10)
    record_run(tmp_path / "cut", 1, 8)
    path = tmp_path / "cut" / FILE
    path.write_bytes(path.read_bytes()[:-tear or None])
    kept = min(resume_step, 7 if tear else 8)
    record_run(tmp_path / "cut", kept + 1, 10, resume_step=kept)
    assert path.read_bytes() == (tmp_path / "whole" / FILE).read_bytes()


def test_a_new_run_starts_a_new_file(tmp_path):
    record_run(tmp_path, 1, 3)
    record_run(tmp_path, 1, 2)
    assert [record["step"] for record in read(tmp_path) if "event" not in record] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3, "text": "\xc3', b"12", b"\x00" * 20])
def test_what_a_crash_tore_is_left_out(tmp_path, torn):
    record_run(tmp_path, 1, 2)
    with (tmp_path / FILE).open("ab") as file:
        file.write(torn)
    assert [record["step"] for record in read(tmp_path / FILE)] == [0, 1, 2]


def test_a_killed_process_loses_no_line(tmp_path):
    code = ("import os, sys\nfrom experiments.metrics import Metrics\n"
            "metrics = Metrics(sys.argv[1], None, tensorboard=False)\n"
            "for step in range(1, 6): metrics.step({'step': step})\n"
            "os.kill(os.getpid(), 9)")
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60,
                            env={**os.environ, "PYTHONPATH": "."})
    assert killed.returncode == -9
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3, 4, 5]


def test_tensorboard_events_and_purge(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    for resume_step in (None, 1):
        with Metrics(tmp_path, resume_step) as metrics:
            metrics.step({"step": 2, "loss": 0.5, "grad_norm": None})
    events = []
    for path in sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:                                                     # TFRecord: length, crc, payload, crc
            size = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12:12 + size]))
            data = data[16 + size:]
    tags = [(value.tag, event.step) for event in events for value in event.summary.value]
    assert tags.count(("train/loss", 2)) == 2 and not any(tag == "train/grad_norm" for tag, _ in tags)
    assert [event.step for event in events if event.HasField("session_log") and event.session_log.status == 1] == [2]


def test_dump_refuses_what_json_cannot_hold():
    assert dump({"x": float("-inf")}) == '{"x": null}'
    with pytest.raises(TypeError):
        dump({"x": object()})
