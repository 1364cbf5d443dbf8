"""The benchmark of loading, at a size that takes seconds."""

import json

import pytest

from experiments.bench import load as bench_load
from experiments.bench.harness import options


@pytest.mark.slow
def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_load, "MESHES", {"fsdp 2": {"fsdp": 2}})
    out = tmp_path / "load.json"
    assert options.command(bench_load.main, ["--megabytes", "2", "--out", str(out)]) == 0
    assert "memory beside the arrays" in capsys.readouterr().out
    records = json.loads(out.read_text())["records"]
    assert [(r["mesh"], r["dtype"]) for r in records] == [("fsdp 2", "float32"), ("fsdp 2", "bfloat16")]
    full, half = records[0]["arrays_mb"], records[1]["arrays_mb"]
    assert full == 2 * half > 20 and all(r["seconds"] > 0 for r in records)


def test_size_that_is_refused(capsys):
    assert options.command(bench_load.main, ["--megabytes", "0"]) == 2
    assert capsys.readouterr().err == "error: --megabytes=0 must be 1 or more.\n"
