"""experiments.bench.questions: every way is timed for one question and for several, and a suite beside its passes."""

import json

import pytest

from experiments.bench import questions


@pytest.mark.slow
def test_all_is_timed(tmp_path, capsys, monkeypatch):
    tiny = dict(layers=1, d_model=16, mlp_dim=32, heads=2, kv_heads=1, head_dim=8)
    monkeypatch.setattr(questions, "MODEL", tiny)
    out = tmp_path / "questions.json"
    assert questions.main(["--length=2048", "--rounds=1", f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    assert [r["way"] for r in found["records"]] == ["forced", "choice", "generate", "turns"]
    assert all(r["ratio"] == pytest.approx(r["several_s"] / r["one_s"]) for r in found["records"])
    assert 0 < found["suite"]["passes_s"] < found["suite"]["seconds"]
    assert [target["what"] for target in found["targets"]][-1] == "suite over its forward passes"
    assert "forced: 8 questions over one" in capsys.readouterr().out
