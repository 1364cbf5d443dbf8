"""experiments.bench.generalise in miniature: its counts, table and picture."""

import json

import numpy as np
import pytest

from experiments.bench import generalise
from tests.helpers import ROOT


@pytest.mark.slow
def test_every_position_and_seed_is_trained_and_read(tmp_path, capsys):
    out, picture = tmp_path / "found.json", tmp_path / "found.png"
    given = [
        f"--config={ROOT / 'configs/recall.py'}:smoke",
        "--positions=alibi;rope, window 8",
        "--seeds=1",
        "--rows=3",
    ]
    assert generalise.main([*given, f"--out={out}", f"--picture={picture}"]) == 0
    records = json.loads(out.read_text())["records"]
    named = [(r["position"], r["seed"]) for r in records]
    assert named == [("alibi", 0), ("rope, window 8", 0)]
    asked = np.array([r["asked"] for r in records])
    assert asked.shape == (2, 4, generalise.DEPTHS) and (asked.sum(-1) == 3 * 4).all()
    assert records[0]["lengths"] == [32, 64, 128, 256] and records[0]["loss"] != records[1]["loss"]
    assert picture.stat().st_size > 10_000
    assert "alibi" in capsys.readouterr().out.splitlines()[-2]
    config = generalise.settings("rope, window 8", 1, str(ROOT / "configs/recall.py"))
    assert (config.model.mask, config.model.position, config.seed) == ("causal & window(8)", "rope", 1)
