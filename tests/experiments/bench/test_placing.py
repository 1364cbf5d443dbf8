"""The benchmark of placing schemes, at sizes that take seconds."""

import json

import numpy as np
import pytest

from experiments.bench import placing as bench_placing
from experiments.bench import results
from experiments.bench.harness import options
from longctx.placing import SCHEMES, flexsp


def test_command(tmp_path, capsys, monkeypatch):
    for name, value in (("DRAWS", 1), ("SMALL", 2), ("SEQUENCES", 20)):
        monkeypatch.setattr(bench_placing, name, value)
    monkeypatch.setattr(flexsp, "SECONDS", 0.3)
    out = tmp_path / "placing.json"
    argv = ["--lengths", "web,stdlib", "--ranks", "4", "--rows", "2", "--tokens", "8192", "--out", str(out)]
    assert options.command(bench_placing.main, argv) == 0
    printed, said = capsys.readouterr().out, json.loads(out.read_text())
    assert [(r["kind"], r["scheme"]) for r in said["records"]] == [(k, s) for k in ("web", "stdlib") for s in SCHEMES]
    assert all(min(r["attention"], r["linear"], r["both"]) >= 1 - 1e-9 for r in said["records"])
    assert all(r["with_sending"] >= r["both"] - 1e-9 and r["planning_ms"] > 0 for r in said["records"])
    assert {r["mesh"] for r in said["meshes"]} == {"1 x 4", "2 x 2"}
    assert all(r["worst"] >= r["mean"] >= 1 - 1e-9 for r in said["searched"])
    assert "attention.across_rows" in printed and "simulated" in printed and "assumed" in printed
    for name in ("placed", "meshes", "searched", "timed", "targets"):
        columns, rows = results.table(said, name)
        assert rows and all(len(row) == len(columns) for row in rows)


@pytest.mark.parametrize("kind", ["web", "stdlib"])
def test_a_batch_leaves_a_hundredth_of_its_rows(kind):
    lengths = bench_placing.batch(kind, 3, 4096, seed=1)
    assert lengths.sum() == 3 * int(0.99 * 4096) and 1 <= lengths.min() and lengths.max() <= 4096
    np.testing.assert_array_equal(lengths, bench_placing.batch(kind, 3, 4096, seed=1))


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--lengths", "wed"], "Did you mean 'web'"),
        (["--ranks", "0"], "--ranks=0 --rows=4 must be whole numbers from 1 on"),
        (["--tokens", "1000"], "--tokens=1000 must be at least 512 and divide by --ranks=64"),
    ],
)
def test_options_that_are_refused(argv, words, capsys):
    assert options.command(bench_placing.main, argv) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
