"""The benchmark of packing, at sizes that take seconds."""

import json

import numpy as np
import pytest

from experiments.bench import packing, results
from experiments.bench.harness import options
from experiments.meter import lengths
from longctx.data.packing.api import COMPARED, PACKINGS


@pytest.mark.parametrize("kind", lengths.CORPORA)
def test_a_corpus_is_a_function_of_its_seed_and_within_bounds(kind):
    drawn = lengths.corpus(kind, 10_000)
    assert np.array_equal(drawn, lengths.corpus(kind, 10_000, 0))
    assert not np.array_equal(drawn, lengths.corpus(kind, 10_000, 1))
    assert drawn.dtype == np.int64 and 1 <= drawn.min() and drawn.max() <= lengths.LONGEST


def test_documents_lie_one_after_another_in_repositories():
    text = packing.text_of("log-normal", 25, True)
    assert len(text.ids) == (text.inputs + 1).sum() and (np.diff(text.starts) == text.inputs[:-1] + 1).all()
    assert list(text.names)[9:11] == ["0/9.txt", "1/0.txt"] and text.names[24] == "2/4.txt"


@pytest.mark.parametrize("sizes", [("300", "30000"), pytest.param(("2000,100000", "2000000"), marks=pytest.mark.slow)])
def test_command(sizes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packing, "measure", measured_here)
    documents, compared = sizes
    out = tmp_path / "packing.json"
    assert options.command(packing.main, ["--documents", documents, "--compared", compared, "--out", str(out)]) == 0
    assert "peak memory, GB" in capsys.readouterr().out
    said = json.loads(out.read_text())
    assert {one["packing"] for one in said["records"]} == PACKINGS.keys() - COMPARED
    assert {one["packing"] for one in said["compared"]} == COMPARED
    assert {one["row"] for one in said["by_rows"]} == set(packing.ROWS)
    for name in ("packed", "packed_rows", "compared"):
        columns, rows = results.table(said, name)
        assert rows and all(len(row) == len(columns) for row in rows)


def measured_here(kind, way, documents, row):
    """packing.measure in this process: the ones of their own are tested below."""
    ready, handlers = packing.build({"lengths": kind, "packing": way, "documents": documents, "row": row})
    task = {"lengths": kind, "packing": way, "documents": documents, "row": row}
    return task | ready | handlers["pack"]() | {"gigabytes": 0.1}


def test_a_measurement_has_its_own_process(capsys):
    found = packing.measure("log-normal", "best_fit", 1000, 8192)
    assert found["seconds"] > 0 and 0.01 < found["gigabytes"] < 2 and 0 <= found["padding"] < 100
    assert "best_fit, 1,000 documents (log-normal), rows of 8,192" in capsys.readouterr().out


def test_sizes_that_are_refused(capsys):
    assert options.command(packing.main, ["--compared", "0"]) == 2
    assert capsys.readouterr().err == "error: --compared=0 must be 1 or more.\n"
