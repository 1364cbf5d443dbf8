"""A run on several sources, one of them tokenised before: what it logs and writes down."""

import json
import os

import pytest

from experiments import tokenize
from tests.experiments.train_helpers import ended_well, steps
from tests.helpers import ROOT

pytestmark = pytest.mark.slow


def test_a_run_on_several_sources(tiny, tmp_path):
    """The shares of the second stage are its own; in config.json stands what was left out."""
    for name in ("code", "web"):
        lines = [json.dumps({"text": f"{name} {i} " * 9}) + "\n" for i in range(1, 60)] + ['{"text": ""}\n']
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    code, store, web = f"--config.data.path={tmp_path / 'code.jsonl'}", tmp_path / "code", tmp_path / "web.jsonl"
    smoke = f"--config={ROOT / 'configs/quickstart.py'}:smoke"
    tokenize.main(["tokenize", smoke, code, f"--out={store}", "--processes=1"])
    config = tmp_path / "mixed.py"
    config.write_text(
        "from experiments.settings import defaults, source, stage\n"
        "def get_config(arg=''):\n"
        "    config = defaults()\n"
        "    config.model.update(layers=1, d_model=16, mlp_dim=32, heads=2, kv_heads=1, head_dim=8, vocab_size=259)\n"
        "    config.batch_tokens, config.eval.tasks, config.log.trackers = 512, (), ()\n"
        "    config.stages = stage(seq_len=64, steps=4), stage(seq_len=128, steps=4, mix=('web(1)',))\n"
        "    config.log.every_steps, config.checkpoint.every_steps = 2, 2\n"
        f"    config.data.mix = source('code', {str(store)!r}), source('web', {str(web)!r})\n"
        "    return config\n"
    )
    given = "-m", "experiments.train", f"--config={config}", f"--workdir={tmp_path / 'run'}"
    said = ended_well(tiny.python(*given))
    assert said.count("1 empty document") == 2
    logged = steps(tmp_path / "run")
    assert {"loss/code", "loss/web"} <= logged[1].keys()
    assert "loss/code" not in logged[-1] and logged[-1]["loss/web"] > 0, "a source without rows has no loss"
    left_out = json.loads((tmp_path / "run" / "config.json").read_text())["left_out"]
    assert [os.path.basename(line.split("'")[1]) for line in left_out] == ["code.jsonl", "web.jsonl"]
