"""experiments.plan --placing: schemes compared on the documents of a config's own batch."""

import dataclasses
import json
import types

import pytest

from experiments.hardware.targets import CHIPS
from experiments.meter import rows
from experiments.planner import placed, placing
from experiments.planner.command import Request
from longctx.config import AttentionConfig, Config, MeshConfig, ModelConfig, StageConfig
from longctx.data import curriculum
from longctx.errors import UserError
from longctx.placing.api import SCHEMES

MODEL = ModelConfig(layers=2, d_model=64, mlp_dim=128, heads=8, kv_heads=4, head_dim=8)
STAGES = (StageConfig(seq_len=4096, steps=1),)
APART = Config(batch_tokens=4 * 4096, stages=STAGES, model=MODEL, mesh=MeshConfig(data=4, context=2))
ACROSS = dataclasses.replace(
    APART, mesh=MeshConfig(context_outer=4, context=2), attention=AttentionConfig(across_rows=True)
)


def compared(config):
    (stage,) = curriculum.plan(config)
    records, refused = placing.of_batch(config, CHIPS["h100"], next(iter(rows.of_lengths(config, stage, "web"))))
    return {r["scheme"]: r for r in records}, refused


def test_a_mesh_is_compared_with_every_scheme_on_its_own_rows():
    """Rows that are full stay so; joined, no shard has more than 1.05 of the mean work, and apart some row has."""
    (apart, refused), (across, _) = compared(APART), compared(ACROSS)
    assert set(apart) | set(refused) == {placing.CONFIG, *SCHEMES}
    measures = lambda record: {name: value for name, value in record.items() if name not in ("scheme", "planning_ms")}
    assert measures(across[placing.CONFIG]) == measures(across["dispatch_rows"]) == measures(apart["dispatch_rows"])
    assert across[placing.CONFIG]["both"] <= 1.05 < apart[placing.CONFIG]["attention"]
    for record in (apart[placing.CONFIG], apart["dispatch_rows"]):
        assert record["padding"] == 0 and record["steps"] == 1


def test_the_table_is_printed_and_saved(tmp_path, capsys):
    """For eight devices, of which only the chip is looked at."""
    target = types.SimpleNamespace(name="h100x8", chip=CHIPS["h100"], devices=[None] * 8)
    placed.show(Request(types.SimpleNamespace(lengths="code"), ACROSS, target, tmp_path))
    printed = capsys.readouterr().out
    assert "documents (code) in 4 x 4,096 tokens on 8 devices of h100x8" in printed and "(ours)" in printed
    saved = json.loads((tmp_path / "placing.json").read_text())
    assert saved["records"][0]["scheme"] == placing.CONFIG and saved["records"][0]["scheme"] in printed


def test_tensor_parallel_ranks_are_refused():
    with pytest.raises(UserError, match="compares ranks of one device, and mesh.tensor=2; 1 works"):
        compared(dataclasses.replace(APART, mesh=MeshConfig(data=4, context=2, tensor=2)))
