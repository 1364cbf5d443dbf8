"""What a run trains and what it leaves alone: adapters, parts of the parameters by pattern, averages of them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from longctx import meshes, optim, trained, training
from longctx.config import (
    Config,
    LayerConfig,
    LoraConfig,
    MemoryConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    StageConfig,
)
from longctx.data import curriculum
from longctx.errors import UserError
from longctx.model import functional, lora, paths
from tests.helpers import slow
from tests.longctx.test_training import batch

MODEL = ModelConfig(
    vocab_size=32,
    layers=3,
    d_model=16,
    mlp_dim=32,
    heads=2,
    kv_heads=2,
    head_dim=8,
    dtype="float32",
    experts=4,
    experts_per_token=2,
    expert_mlp_dim=16,
    mlp_bias=True,
    pattern=(LayerConfig(feed_forward="gpt_oss"), LayerConfig(position="nope")),
)
OUTSIDE = "embedding.table", "head"
LORA = LoraConfig(rank=2, targets=("attention.w*", "mlp.expert_*", "mlp.down", "blocks.1.mlp.up", *OUTSIDE))
CONFIG = Config(
    batch_tokens=64,
    stages=(StageConfig(seq_len=32, steps=10),),
    optim=OptimConfig(warmup_steps=1, learning_rate=1e-2, ema=0.75),
    model=dataclasses.replace(MODEL, lora=LORA),
)
CUT = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=2, context=2, tensor=2))
NORMS = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, trains=("*norm.scale", "head")))
PLAIN = dataclasses.replace(NORMS, model=MODEL, optim=OptimConfig(trains=("blocks.1.mlp.*", "norm.scale"), ema=0.0))


@functools.cache
def compiled(config):
    mesh, stages = meshes.make(config.mesh), curriculum.plan(config)
    return mesh, training.compile_step(config, optim.learning_rate(config.optim, stages), stages[0], mesh)


def leaves(params) -> dict:
    return {path: np.asarray(x) for path, x in paths.leaves(params)}


def moved(config, steps: int = 3):
    """(paths of parameters that steps changed, the state before them and after)."""
    mesh, step = compiled(config)
    state = training.init_state(config, mesh)
    before = jax.tree.map(np.asarray, state)
    for i in range(steps):
        state, _ = step(state, batch(mesh, seed=i))
    old, new = leaves(before["params"]), leaves(state["params"])
    return {path for path in old if old[path].tobytes() != new[path].tobytes()}, before, state


@pytest.mark.parametrize("config", [CONFIG, *slow(CUT)], ids=["one", "eight"])
def test_an_adapted_model_starts_as_the_model_bit_for_bit_and_merges_to_1e_6(config):
    """Of two kinds of layers, with experts and without, and of the embedding and the head."""
    mesh = meshes.make(config.mesh)
    with jax.set_mesh(mesh):
        make = lambda model: jax.jit(lambda: functional.init(model, config.attention, jax.random.key(0)))()
        plain, params = make(MODEL), make(config.model)
        assert {path: x.shape for path, x in leaves(plain).items()} == {
            path: x.shape for path, x in leaves(lora.without(params)).items()
        }
        logits = lambda model: jax.jit(functools.partial(functional.logits, functional.graph(model, config.attention)))
        rows = batch(mesh)
        base, adapted = logits(MODEL), logits(config.model)
        want = np.asarray(base(plain, rows))
        np.testing.assert_array_equal(np.asarray(adapted(params, rows)), want)

        part = trained.part(config, params)
        spec = lambda x: jax.typeof(x).sharding.spec
        drawn = lambda x: x + 0.03 * jax.random.normal(jax.random.key(1), x.shape, out_sharding=spec(x))
        params = jax.jit(lambda params, part: paths.joined(params, jax.tree.map(drawn, part)))(params, part)
        merged = jax.jit(lora.merged, static_argnums=1)(params, config.model)
        got, merged = adapted(params, rows), base(merged, rows)
        assert abs(np.asarray(got) - want).max() > 0.1
        largest = abs(np.asarray(got)).max()
        np.testing.assert_allclose(np.asarray(merged) / largest, np.asarray(got) / largest, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [CONFIG, *slow(CUT)], ids=["one", "eight"])
def test_only_adapters_move_and_only_they_have_moments(config):
    changed, before, state = moved(config)
    adapters = {path for path in leaves(before["params"]) if path.endswith((".a", ".b"))}
    assert len(adapters) == 2 * (4 + 3 + 4 + 2 + len(OUTSIDE)) and changed == adapters
    mu = leaves(state["moments"][0].mu)
    assert mu.keys() == adapters and all(x.dtype == np.float32 for x in mu.values())
    assert "blocks.1.mlp.up.a" in adapters and "blocks.1.mlp.gate.a" not in adapters
    shapes = {path: x.shape for path, x in leaves(state["params"]).items()}
    assert shapes["blocks.0.mlp.expert_down.a"] == (2, 4, 16, 2) and shapes["embedding.table.a"] == (32, 2)
    assert shapes["blocks.0.mlp.expert_down.b"] == (2, 4, 2, 16) and shapes["head.b"] == (2, 32)


@pytest.mark.slow
def test_patterns_train_beside_adapters_and_without():
    changed, before, _ = moved(NORMS)
    assert {path for path in changed if not path.endswith((".a", ".b"))} == {
        "norm.scale",
        "head",
        *(f"blocks.{i}.{name}_norm.scale" for i in (0, 1) for name in ("attention", "mlp")),
    }
    changed, before, state = moved(PLAIN)
    weights = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
    assert changed == {"norm.scale", *(f"blocks.1.mlp.{name}" for name in weights)}
    assert leaves(state["moments"][0].mu).keys() == changed and "ema" not in state


@pytest.mark.slow
def test_the_gradient_norm_is_that_of_the_trained_part():
    """Adapters' gradients by jax.grad of the sum base + scale a b, each weight whole."""
    mesh, step = compiled(CONFIG)
    state, model = training.init_state(CONFIG, mesh), CONFIG.model
    with jax.set_mesh(mesh):
        rows, params = batch(mesh), state["params"]
        graph = functional.graph(MODEL, CONFIG.attention)

        @jax.jit
        @jax.grad
        def gradient(part):
            whole = lora.merged(paths.joined(params, part), model)
            return functional.nll(graph, whole, rows).mean()

        want = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in leaves(gradient(trained.part(CONFIG, params))).values()))
    _, metrics = step(state, rows)
    assert float(metrics["grad_norm"]) == pytest.approx(want, rel=1e-5)


def test_the_average_is_that_of_every_step_and_what_is_measured():
    mesh, step = compiled(CONFIG)
    state = training.init_state(CONFIG, mesh)
    want = leaves(trained.part(CONFIG, state["params"]))
    for i in range(3):
        state, _ = step(state, batch(mesh, seed=i, weight=np.nan if i == 1 else 1.0))
        new = leaves(trained.part(CONFIG, state["params"]))
        if i != 1:  # a step that is not finite counts for nothing
            want = {path: 0.75 * mean + 0.25 * new[path] for path, mean in want.items()}
    measured = leaves(trained.measured(state))
    for path, value in leaves(state["params"]).items():
        np.testing.assert_allclose(measured[path], want.get(path, value), rtol=1e-6, atol=1e-7, err_msg=path)
    assert any(abs(measured[path] - leaves(state["params"])[path]).max() > 1e-4 for path in want)


def refused(**changes) -> str:
    layers = changes.pop("layers", MODEL.layers)
    lora = dataclasses.replace(LORA, **changes.pop("lora", {}))
    model = dataclasses.replace(MODEL, layers=layers, lora=lora, tied_head=changes.pop("tied_head", False))
    config = dataclasses.replace(CONFIG, model=model, **changes)
    with pytest.raises(UserError) as caught:
        functional.names.check(model, config.mesh.axes)
        training.check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_work_is_refused_by_name():
    assert (
        "model.lora.targets[1]='atention.wq' matches no weight that adapters know. Did you mean 'attention.wq'?"
        in refused(lora=dict(targets=("mlp.up", "atention.wq")))
    )
    assert "model.lora.targets=()" in refused(lora=dict(targets=()))
    for target in (*OUTSIDE, "embed*"):
        tied = refused(tied_head=True, lora=dict(targets=("attention.w*", target)))
        assert f"model.lora.targets[1]={target!r}: the head of this model is its embedding (tied_head)" in tied
    trains = refused(optim=OptimConfig(trains=("mlp.*", "mlp.gats")))
    assert "optim.trains[1]='mlp.gats' matches no parameter. Did you mean 'mlp.gate'?" in trains
    offload = refused(memory=MemoryConfig(offload=("moments",)))
    assert "memory.offload=('moments',) with memory.backward='autodiff' trains all" in offload
    assert "model.lora.rank" in offload and "'streamed' works" in offload
    whole = dict(lora=dict(rank=0), layers=4, optim=OptimConfig(ema=0.9), memory=MemoryConfig(offload=("params",)))
    assert "optim.ema=0.9" in refused(**whole)
