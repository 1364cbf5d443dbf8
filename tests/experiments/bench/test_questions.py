"""experiments.bench.questions: every way is timed for one question and for several, and a suite beside its passes."""

import json

import pytest

from experiments.bench import questions


@pytest.mark.slow
def test_all_is_timed(tmp_path, capsys):
    out = tmp_path / "questions.json"
    assert questions.main(["--length=1500", "--rounds=1", f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    assert [r["way"] for r in found["records"]] == ["forced", "choice", "generate", "turns"]
    assert all(r["ratio"] == pytest.approx(r["several_s"] / r["one_s"]) for r in found["records"])
    assert 0 < found["suite"]["passes_s"] < found["suite"]["seconds"]
    assert [target["what"] for target in found["targets"]][-1] == "suite over its forward passes"
    assert "forced: 8 questions over one" in capsys.readouterr().out
