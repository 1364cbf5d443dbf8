"""The communication meter: steps compiled for simulated devices against the closed forms, and the command."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest

from experiments import comm
from experiments.hardware import targets
from experiments.hardware.targets import Target
from experiments.hlo.loops import Certainty
from experiments.meter import closed, measure, rows
from longctx import training
from longctx.config import AttentionConfig, Config, LayerConfig, MeshConfig, ModelConfig, StageConfig
from longctx.context_parallel.api import STRATEGIES
from longctx.data import curriculum
from longctx.errors import UserError
from tests.helpers import ROOT, nightly, slow

MODEL = ModelConfig(layers=2, d_model=64, mlp_dim=64, heads=8, kv_heads=2, head_dim=8, vocab_size=64)
BEFORE_NIGHTLY = ("ulysses",)
BOUNDED = "local", "dispatch"  # nothing is sent; what is depends on the batch


def config_of(strategy: str, model: ModelConfig = MODEL, layout: str = "striped") -> Config:
    mesh = MeshConfig(context_outer=2, context=2) if strategy in ("usp", "double_ring") else MeshConfig(context=4)
    return Config(
        model=model,
        mesh=mesh,
        attention=AttentionConfig(strategy=strategy, layout=layout),
        stages=(StageConfig(seq_len=256, steps=2),),
        batch_tokens=512,
    )


def measured(config: Config) -> measure.Meter:
    return measure.measure(config, simulated(config.mesh.devices))


def simulated(count: int) -> Target:
    return Target(f"cpu:{count}", None, jax.devices()[:count], "cpu")


@pytest.mark.parametrize(
    "strategy",
    [*slow(*BEFORE_NIGHTLY), *nightly(*(name for name in STRATEGIES if name not in (*BEFORE_NIGHTLY, *BOUNDED)))],
)
def test_a_compiled_step_sends_what_the_closed_forms_say(strategy):
    """By attention the very numbers, in as many steps; of weights beside a few scalars."""
    layout = "contiguous" if strategy == "lightseq" else "striped"
    config = config_of(strategy, layout=layout)
    found = measured(config)
    attention = [row for row in found.rows if row.part == "attention"]
    assert {row.phase for row in attention} >= {"forward", "backward"}
    for row in attention:
        assert row.load.elements == row.closed.load.elements and row.certainty is Certainty.EXACT
        if strategy != "double_ring":  # its inner rings wait for the same links, not for each other's data
            assert (row.steps, row.hops) == (row.closed.steps, row.closed.hops)
        assert row.overlap is None
    weights = [row for row in found.rows if row.part == "layers"]
    assert {(row.phase, row.kind) for row in weights} == {
        ("forward", "all-gather"),
        ("recomputed", "all-gather"),
        ("backward", "all-reduce"),
    }
    for row in weights:
        assert row.ratio == pytest.approx(1, rel=0.02)


@pytest.mark.slow
def test_kinds_of_layers():
    """A window spares hops in half of the layers."""
    kinds = LayerConfig(mask="causal & window(40)"), LayerConfig()
    config = config_of("token_ring", dataclasses.replace(MODEL, pattern=kinds), "contiguous")
    attention = [row for row in measured(config).rows if row.part == "attention"]
    whole = closed.attention(config_of("token_ring", layout="contiguous"), curriculum.plan(config)[0])
    for row in attention:
        assert row.load.elements == row.closed.load.elements < whole[row.phase][0].load.elements


@pytest.mark.slow
def test_parts_of_pairs():
    """A position method in parts attends and sends once per part; compilers may send once what several parts need."""
    rows = measured(config_of("ulysses", dataclasses.replace(MODEL, position="self_extend(4, 64)"))).rows
    attention = {(row.phase, row.kind): row for row in rows if row.part == "attention"}
    of = lambda *name: (attention[name].load.elements, attention[name].closed.load.elements)
    compiled, expected = of("forward", "all-to-all")
    assert compiled == expected
    compiled, expected = of("backward", "all-to-all")
    assert expected / 2 < compiled <= expected


def test_what_is_sent_again():
    sent = lambda remat: closed.attention(
        config := config_of("ulysses", dataclasses.replace(MODEL, remat=remat)), curriculum.plan(config)[0]
    )
    kept, exchanged, all_again = (sent(remat) for remat in ("none", "attention", "layer"))
    assert not kept["recomputed"] and all_again["recomputed"] == all_again["forward"] == kept["forward"]
    steps = lambda parts: {one.kind: one.steps for one in parts}
    assert steps(exchanged["recomputed"]) == {"all-to-all": 2, "all-gather": 2}  # of two layers
    assert steps(exchanged["forward"]) == {"all-to-all": 4, "all-gather": 2}


def test_gradients_are_scattered_where_compilers_can():
    config = config_of("ring")
    mesh = measure.meshes.make(config.mesh)
    params = training.abstract_state(config, mesh)["params"]
    elements = lambda platform, kind: sum(
        one.load.elements for one in closed.weights(config, params, platform)["layers", "backward"] if one.kind == kind
    )
    assert elements("cpu", "all-reduce") == 2 * elements("tpu", "reduce-scatter") + elements("tpu", "all-reduce")


def test_what_cannot_be_measured(capsys):
    for name in ("cpu:0", "cpu", "h800x8"):
        with pytest.raises(UserError, match=f"target='{name}' is not known.*cpu:8"):
            targets.target(name, simulate=True)
    with pytest.raises(UserError, match="cpu:5000 is more than the 2048 devices that jax can simulate.*cpu:2048 works"):
        targets.target("cpu:5000", simulate=True)
    for count in (0, 10**6):
        with pytest.raises(UserError, match=f"target h100x{count} must have from 1 to 65536 devices"):
            targets._gpus("h100", count)
    with pytest.raises(UserError, match="target='cpu:8' is not known"):
        targets.target("cpu:8")
    with pytest.raises(UserError, match="mesh .* is of 1 devices, and target cpu:4 has 4; --config.mesh.context=4"):
        measure.measure(dataclasses.replace(config_of("ring"), mesh=MeshConfig()), simulated(4))
    with pytest.raises(SystemExit):
        comm.main(["comm", "--config=configs/quickstart.py"])
    assert "--target" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.comm",
            "--target=cpu:4",
            "--config=configs/quickstart.py:smoke",
            "--config.mesh.context=4",
            f"--workdir={tmp_path}",
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "forward collective-permute" in done.stdout and (tmp_path / "comm.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "comm.json").read_text())
    ring = next(row for row in found["rows"] if (row["part"], row["phase"]) == ("attention", "forward"))
    assert ring["kind"] == "collective-permute" and ring["compiled"] == ring["closed"]
    assert ring["beside_compute"] is None
    assert ring["compiled"]["steps"] == 2  # the mean of a layer that sees four tokens, one hop, and one that sees all
    assert found["balance"]["tokens"] == 1 <= found["balance"]["work"] <= found["balance"]["lockstep"]


def test_the_balance_of_rows():
    """Documents drawn as web pages: zigzag is uneven where per_document is not; nothing where tokens see later ones."""

    def even(layout, **model):
        config = dataclasses.replace(
            config_of("ring", dataclasses.replace(MODEL, **model), layout),
            stages=(StageConfig(seq_len=8192, steps=1),),
            batch_tokens=8192,
        )
        (stage,) = curriculum.plan(config)
        return rows.measured(config, stage, rows.of_lengths(config, stage, "web"))

    assert even("per_document").work < 1.05 < even("zigzag").work
    assert even("zigzag", mask="full") is None
    with pytest.raises(UserError, match="--lengths='pages' is not known. Known: code, data, document, prolong, web"):
        rows.check("pages")
