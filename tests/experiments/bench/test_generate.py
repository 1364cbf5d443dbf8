"""The benchmark of reading and decoding, on a tiny model: what it measures, and beside whom."""

import importlib.util
import json

import numpy as np
import pytest

from experiments.bench import generate
from longctx import hf
from tests.longctx.hf import tiny


@pytest.mark.nightly
def test_it_measures_both_sides_where_both_are_there(tmp_path, capsys):
    model = tiny.write(tmp_path / "model", "llama")
    options = ["--lengths", "16", "--rows", "1,2", "--rounds", "1", "--dtype", "float32"]
    assert generate.main([*options, "--model", str(model), "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    asked = [(r["what"], r["rows"], r["side"]) for r in found["records"]]
    sides = [f"{side} float32" for side in generate.NEEDS]
    assert asked == [(what, rows, side) for what, rows in (("read", 1), ("decode", 1), ("decode", 2)) for side in sides]
    peers = importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
    for r in found["records"]:
        if r["side"].startswith("longctx"):
            assert r["tokens_per_s"] > 0 and r["compile_s"] > 0 and not r["note"]
            assert (r["speed_over_torch"] is not None) == bool(peers)
        else:
            assert bool(r["note"]) != bool(peers)
    assert [target["target"] for target in found["targets"]] == [">= 1", ">= 1.5", ">= 1.5"]
    assert "decode, 2 rows at 16 tokens, float32" in capsys.readouterr().out


def test_ratios_are_within_a_dtype(monkeypatch):
    seconds = {"longctx float32": 2.0, "PyTorch float32": 3.0, "longctx bfloat16": 4.0, "PyTorch bfloat16": 1.0}
    result = lambda name: {"seconds": {"read": [9.0, seconds[name]], "decode": [seconds[name]]}, "note": ""}
    monkeypatch.setattr(generate.sides, "compare", lambda module, tasks, *rest: {name: result(name) for name in tasks})
    args = type("Args", (), {"dtype": "float32,bfloat16", "rounds": 1, "chunk": 8})
    records = {(r["what"], r["side"]): r for r in generate.measure("folder", 100, 1, args)}
    assert records["read", "longctx float32"]["speed_over_torch"] == 1.5
    assert records["read", "longctx bfloat16"]["speed_over_torch"] == 0.25
    assert records["read", "PyTorch float32"]["tokens_per_s"] == pytest.approx(100 / 3)
    assert records["decode", "longctx float32"]["ms_per_token"] == 125.0  # 2 s for 16 tokens


def test_random_weights_have_the_shape_of_a_published_model(tmp_path, monkeypatch):
    small = generate.dataclasses.replace(generate.SMOLLM2, layers=2, vocab_size=64, d_model=24, mlp_dim=32, head_dim=8)
    monkeypatch.setattr(generate, "SMOLLM2", small)
    generate.write_model("", tmp_path / "model")
    model = hf.load(tmp_path / "model")
    assert (model.config.layers, model.config.heads, model.config.kv_heads) == (2, 9, 3) and model.config.tied_head
    assert model(np.arange(8)[None]).shape == (1, 8, 64)
