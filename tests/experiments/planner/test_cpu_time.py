"""The step of this machine's processor at prices that are known: what is counted is what there is."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import plan
from experiments.hardware import cpu
from experiments.hlo.passes import Form
from experiments.planner import cpu_time
from experiments.planner.work import work
from longctx import meshes, optim, training
from longctx.config import Config, MeshConfig, ModelConfig, StageConfig
from longctx.data import curriculum
from tests.helpers import ROOT, slow

TINY = ModelConfig(layers=3, d_model=32, mlp_dim=64, heads=4, kv_heads=2, head_dim=8, vocab_size=64, dtype="float32")


class Prices:
    """One second for a FLOP of a product and for a byte, two for an exponential, three and seven for a pair."""

    bandwidth, costly = 1.0, 2.0

    def product(self, form: Form) -> float:
        kept = [dim for dims, summed in zip((form.left, form.right), form.contracted, strict=True)
                for i, dim in enumerate(dims) if i not in summed]  # fmt: skip
        assert form.batch == ((), ())
        return 2.0 * np.prod(kept) * np.prod([form.left[i] for i in form.contracted[0]])

    def attention(self, model, length):
        return 3.0, 7.0


@pytest.mark.parametrize("remat", ["attention", *slow("none")])
def test_products_are_those_of_the_closed_form_and_attention_is_apart(remat):
    """In rows so long that the loss has chunks, whose logits are computed again."""
    T, rows, stage = 1024, 2, StageConfig(seq_len=1024, steps=1)
    config = Config(model=dataclasses.replace(TINY, remat=remat), batch_tokens=rows * T, stages=(stage,))
    mesh, (planned,) = meshes.make(MeshConfig()), curriculum.plan(config)
    compiled = training.compile_step(config, optim.learning_rate(config.optim, [planned]), planned, mesh)
    flops = work(config, training.abstract_state(config, mesh)["params"], T, rows)
    time = cpu_time.predict(config, Prices(), flops, T, compiled.as_text())
    assert time.matmuls == pytest.approx(flops.matmuls + flops.recomputed, rel=0.02)
    pairs = TINY.layers * rows * T * (T + 1) / 2
    assert time.attention_forward == pytest.approx(3 * pairs * flops.times, rel=0.05)
    assert time.attention_backward == pytest.approx(7 * pairs, rel=0.05)
    state = sum(x.size * 4 for x in jax.tree.leaves(training.abstract_state(config, mesh)["params"]))
    assert time.passes > 7 * state  # AdamW reads four arrays and writes three
    assert time.step == time.compute and not time.links


def test_prices_are_measured_once_and_are_times():
    machine, form = cpu.Machine(), Form("bf16", "f32", (16, 8), (8, 24), ((1,), (0,)), ((), ()))
    assert 0 < machine.product(form) == machine.product(form) < 1 and machine.bandwidth > 1e8
    forward, backward = machine.attention(TINY, 64)
    assert forward > 0 and backward >= 0 and machine.costly >= 0


@pytest.mark.slow
def test_the_command_plans_for_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cpu, "seconds", lambda function, *args: 1e-3)
    config = ["--config", str(ROOT / "configs/quickstart.py:smoke")]
    plan.main(["plan", "--target", "cpu", *config, "--workdir", str(tmp_path)])
    assert "tokens on cpu: fits; " in capsys.readouterr().out
    predicted = json.loads((tmp_path / "plan.json").read_text())["predicted"]
    parts = [name for name in predicted if name.endswith("_s") and name != "step_s"]
    assert predicted["step_s"] == pytest.approx(sum(predicted[name] for name in parts)) and predicted["passes_s"] > 0
    assert all("measured here" in line or "the peak is" in line for line in predicted["assumptions"])
