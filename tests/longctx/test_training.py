import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import longctx as lc
from longctx import meshes, optim, training
from longctx.config import Config, MemoryConfig, MeshConfig, ModelConfig, OptimConfig, StageConfig
from longctx.data import curriculum
from longctx.errors import UserError
from tests.helpers import nightly, slow

CONFIG = Config(
    batch_tokens=64,
    stages=(StageConfig(seq_len=32, steps=10),),
    optim=OptimConfig(warmup_steps=2),
    model=ModelConfig(
        vocab_size=32, layers=1, d_model=16, mlp_dim=32, heads=2, kv_heads=2, head_dim=8, dtype="float32"
    ),
)


@functools.cache
def compiled(config=CONFIG):
    mesh, stages = meshes.make(config.mesh), curriculum.plan(config)
    return mesh, training.compile_step(config, optim.learning_rate(config.optim, stages), stages[0], mesh)


def batch(mesh, seed=0, weight=1.0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 32, (2, 33)).astype(np.int32)
    where = np.tile(np.arange(32, dtype=np.int32), (2, 1))
    return meshes.put_batch(
        {
            "tokens": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "weights": np.full((2, 32), weight, np.float32),
            "positions": where,
            "segments": np.ones_like(where),
        },
        mesh,
    )


def test_the_loss_falls_on_one_batch_and_metrics_are_what_they_say():
    mesh, step = compiled()
    state, losses = training.init_state(CONFIG, mesh), []
    for _ in range(8):
        state, metrics = step(state, batch(mesh))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(32), rel=0.2) and losses[-1] < losses[1] < losses[0]
    assert int(state["step"]) == 8 and int(metrics["filled"]) == 64 and int(metrics["skipped"]) == 0
    assert float(metrics["learning_rate"]) == pytest.approx(float(optim.cosine(CONFIG.optim, 10)(8)))


def test_the_step_of_the_face_in_a_jit_is_that_of_a_run():
    """As its docstring has it; traced, not compiled: a run calls the function itself."""
    mesh, (stage, *_) = meshes.make(CONFIG.mesh), curriculum.plan(CONFIG)
    rate = optim.learning_rate(CONFIG.optim, [stage])
    with jax.set_mesh(mesh):
        graph = lc.graph(CONFIG.model, CONFIG.attention, CONFIG.memory)
        jitted = jax.jit(lc.train_step, static_argnums=(0, 1, 2, 3), donate_argnums=4)
        given = training.abstract_state(CONFIG, mesh), training.abstract_batch(stage, mesh)
        got = jitted.trace(graph, CONFIG, rate, stage.rope, *given).out_info
    want = training.trace_step(CONFIG, rate, stage, mesh).out_info
    same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
    assert jax.tree.all(jax.tree.map(same, got, want))


@pytest.mark.canary
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters():
    mesh, step = compiled()
    state = training.init_state(CONFIG, mesh)
    state, _ = step(state, batch(mesh))
    before = jax.tree.map(np.asarray, {name: state[name] for name in ("params", "moments")})
    for k in (1, 2):
        state, metrics = step(state, batch(mesh, weight=np.nan))
        assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (k, k)
    jax.tree.map(np.testing.assert_array_equal, {name: state[name] for name in before}, before)
    state, metrics = step(state, batch(mesh))
    assert np.isfinite(metrics["loss"]) and int(metrics["skipped"]) == 2 and int(metrics["skipped_in_a_row"]) == 0
    assert int(state["step"]) == 4


def test_an_update_that_is_not_finite_leaves_a_finite_state_and_is_counted():
    """The update of one array alone overflows, because of its first moment."""
    mesh, step = compiled()
    state = training.init_state(CONFIG, mesh)
    adam, *rest = state["moments"]
    mu = adam.mu | {"embedding": jax.tree.map(lambda x: x + 1e38, adam.mu["embedding"])}
    state["moments"] = adam._replace(mu=mu), *rest
    before = np.asarray(state["params"]["embedding"]["table"])
    state, metrics = step(state, batch(mesh))
    assert np.isfinite([metrics["loss"], metrics["grad_norm"]]).all() and int(metrics["skipped_in_a_row"]) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state["params"], state["moments"])))
    table = np.asarray(state["params"]["embedding"]["table"])
    assert (table == before).mean() > 0.9, "what overflows stays as it was"


@pytest.mark.parametrize("name", slow("pose", "e2llm"))
def test_an_augmentation_draws_anew_at_every_step_and_alike_in_every_run(name):
    """One batch, and a learning rate of 0: only the positions differ."""
    stage = StageConfig(seq_len=32, steps=10, augment=name, augment_length=256)
    config = dataclasses.replace(CONFIG, stages=(stage,), optim=OptimConfig(learning_rate=0.0))
    (mesh, plain), (_, step) = compiled(dataclasses.replace(config, stages=CONFIG.stages)), compiled(config)
    state, losses = training.init_state(config, mesh), []
    for start in (0, 1, 2, 2):
        fresh = jax.tree.map(jnp.copy, state)
        fresh["step"] = fresh["step"] + start
        losses.append(float(step(fresh, batch(mesh))[1]["loss"]))
    losses.append(float(plain(state, batch(mesh))[1]["loss"]))
    assert len(set(losses)) == 4 and losses[2] == losses[3]


@pytest.mark.parametrize(
    "mesh_config, memory",
    [
        (MeshConfig(), MemoryConfig()),
        *slow(
            (MeshConfig(), MemoryConfig(backward="streamed", chunk_tokens=8)),
            (MeshConfig(data=2, context=2), MemoryConfig()),
        ),
        *nightly(
            (MeshConfig(data=2, context=2), MemoryConfig(backward="streamed", chunk_tokens=8, clip_mode="exact_twice")),
            (MeshConfig(), MemoryConfig(offload=("moments",))),
        ),
    ],
)
def test_losses_by_source_are_those_of_steps_on_the_rows_of_one(mesh_config, memory):
    """The rows of the other source without weight; and the whole loss has the bits that it has without sources."""
    config = dataclasses.replace(CONFIG, mesh=mesh_config, memory=memory)
    (mesh, plain), (stage, *_) = compiled(config), curriculum.plan(config)
    step = training.compile_step(config, optim.learning_rate(config.optim, [stage]), stage, mesh, sources=3)
    whole = jax.device_get(batch(mesh))
    whole["weights"] = np.random.default_rng(1).uniform(0.0, 2.0, (2, 32)).astype(np.float32)
    losses_of = lambda step, batch: jax.device_get(
        step(training.init_state(config, mesh), meshes.put_batch(batch, mesh))[1]
    )
    sources = np.array([[False, False, True], [True, False, False]])
    metrics = losses_of(step, whole | {"sources": sources})
    assert metrics["loss"] == losses_of(plain, whole)["loss"]
    sums, weights = metrics["by_source"]
    np.testing.assert_allclose(weights, [whole["weights"][1].sum(), 0, whole["weights"][0].sum()], rtol=1e-6)
    np.testing.assert_allclose(sums.sum() / weights.sum(), metrics["loss"], rtol=1e-6)
    for source, row in ((0, 1), (2, 0)):
        weighted = np.where(np.arange(2)[:, None] == row, whole["weights"], 0)
        alone = losses_of(plain, whole | {"weights": weighted})
        np.testing.assert_allclose(sums[source] / weights[source], alone["loss"], rtol=1e-6)
    assert sums[1] == 0


@pytest.mark.parametrize("mesh_config", [MeshConfig(), *slow(MeshConfig(data=2, context=2), MeshConfig(fsdp=2))])
def test_accumulated_gradients_are_those_of_all_rows_at_once(mesh_config):
    """Rows of unlike weights, two sources, and parameters after three steps: the divisor is that of the whole batch."""
    rows = 4 * mesh_config.data * mesh_config.fsdp
    config = dataclasses.replace(CONFIG, mesh=mesh_config, batch_tokens=32 * rows)
    rng = np.random.default_rng(0)
    tokens, where = rng.integers(0, 32, (rows, 33)), np.tile(np.arange(32, dtype=np.int32), (rows, 1))
    weights = rng.uniform(0, 2, (rows, 32)) * (rng.random((rows, 1)) ** 4)
    sources = np.eye(2, dtype=bool)[rng.integers(0, 2, rows)]
    whole = {"tokens": tokens[:, :-1].astype(np.int32), "targets": tokens[:, 1:].astype(np.int32)}
    whole |= {"weights": weights.astype(np.float32), "positions": where, "segments": np.ones_like(where)}
    results = []
    for parts in (1, 4):
        config = dataclasses.replace(config, memory=MemoryConfig(grad_accumulation=parts))
        mesh, (stage, *_) = meshes.make(config.mesh), curriculum.plan(config)
        step = training.compile_step(config, optim.learning_rate(config.optim, [stage]), stage, mesh, sources=2)
        state, seen = training.init_state(config, mesh), []
        for _ in range(3):
            state, metrics = step(state, meshes.put_batch(whole | {"sources": sources}, mesh))
            seen.append(metrics)
        results.append(jax.device_get((seen, state["params"], state["moments"])))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), *results)


def test_accumulation_that_cannot_be():
    for memory, reason in (
        (MemoryConfig(grad_accumulation=3), r"batch_tokens=64 is not .* \* memory.grad_accumulation=3; 96"),
        (MemoryConfig(grad_accumulation=0), "memory.grad_accumulation=0 must be at least 1"),
    ):
        with pytest.raises(UserError, match=reason):
            curriculum.plan(dataclasses.replace(CONFIG, memory=memory))
    for memory, reason in (
        (
            MemoryConfig(grad_accumulation=2, offload=("moments",)),
            "adds up gradients on the device, and memory.offload",
        ),
        (MemoryConfig(grad_accumulation=2, backward="streamed"), "is for memory.backward='autodiff'"),
    ):
        with pytest.raises(UserError, match=reason):
            training.check(dataclasses.replace(CONFIG, memory=memory))


def test_a_row_that_is_not_finite_spoils_its_own_source_only():
    nll, weights = np.array([[1.0, 2.0], [np.nan, 1.0], [3.0, 5.0]], np.float32), np.ones((3, 2), np.float32)
    sources = np.array([[True, False], [False, True], [True, False]])
    np.testing.assert_array_equal(lc.loss.by_source(nll, weights, sources), [[11.0, np.nan], [4.0, 2.0]])


def test_all_weights_zero_is_a_step_of_zero_loss():
    mesh, step = compiled()
    _, metrics = step(training.init_state(CONFIG, mesh), batch(mesh, weight=0.0))
    assert float(metrics["loss"]) == 0.0 and float(metrics["grad_norm"]) == 0.0


@pytest.mark.parametrize("mesh_config", [MeshConfig(), MeshConfig(fsdp=2, tensor=2)])
def test_abstract_state_is_the_state(mesh_config):
    config = dataclasses.replace(CONFIG, mesh=mesh_config)
    mesh = meshes.make(mesh_config)
    state, abstract = training.init_state(config, mesh), training.abstract_state(config, mesh)
    same = lambda x, a: x.shape == a.shape and x.dtype == a.dtype and x.sharding.is_equivalent_to(a.sharding, x.ndim)
    assert all(jax.tree.leaves(jax.tree.map(same, state, abstract)))


def test_every_mesh_starts_from_the_same_parameters():
    one = training.init_state(CONFIG, meshes.make(MeshConfig()))["params"]
    cut = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=2, tensor=2))
    jax.tree.map(np.testing.assert_array_equal, one, training.init_state(cut, meshes.make(cut.mesh))["params"])


def test_clipping_scales_to_the_limit_and_reports_the_norm_before():
    grads = {"a": jnp.array([3.0, 4.0])}
    clipped, norm = optim.clipped(grads, 1.0)
    assert float(norm) == 5.0 and np.allclose(clipped["a"], [0.6, 0.8])
    assert np.array_equal(optim.clipped(grads, 10.0)[0]["a"], grads["a"]) and optim.clipped(grads, 0.0)[0] is grads


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_schedules_warm_up_reach_the_peak_and_end_where_they_say(name):
    config = OptimConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.1, schedule=name)
    rate = [float(optim.SCHEDULES[name](config, 100)(s)) for s in range(101)]
    assert rate[0] == 0.0 and rate[10] == pytest.approx(2.0) and max(rate) == pytest.approx(2.0)
    assert rate[100] == pytest.approx(2.0 if name == "constant" else 0.2)


def test_learning_rate_over_stages():
    config = dataclasses.replace(
        CONFIG,
        optim=OptimConfig(warmup_steps=20),
        stages=(StageConfig(seq_len=32, steps=50), StageConfig(seq_len=64, steps=50, lr="rewarm", lr_scale=0.5)),
    )
    stages = curriculum.plan(config)
    plain = optim.cosine(config.optim, 100)
    rate = optim.learning_rate(config.optim, stages)
    assert float(rate(30)) == pytest.approx(float(plain(31)))
    assert float(rate(90)) == pytest.approx(0.5 * float(plain(91)))
    assert float(rate(50)) == pytest.approx(0.5 * float(plain(51)) / 12)  # a quarter of 50 steps
    assert float(rate(0)) > 0


@pytest.mark.parametrize("schedule", optim.SCHEDULES)
def test_a_stage_that_restarts_has_the_schedule_of_a_run_of_its_own(schedule):
    settings = OptimConfig(warmup_steps=20, schedule=schedule)
    some = (
        StageConfig(seq_len=32, steps=100, lr="restart"),
        StageConfig(seq_len=64, steps=40, lr="restart", lr_scale=0.5),
    )
    stages = curriculum.plan(dataclasses.replace(CONFIG, optim=settings, stages=some))
    rate = optim.learning_rate(settings, stages)
    first = optim.SCHEDULES[schedule](settings, 100)
    second = optim.SCHEDULES[schedule](dataclasses.replace(settings, warmup_steps=10), 40)  # a quarter of 40 steps
    for step in (0, 10, 50, 99):
        assert float(rate(step)) == pytest.approx(float(first(step + 1)))
    for step in (0, 9, 25, 39):
        assert float(rate(100 + step)) == pytest.approx(0.5 * float(second(step + 1)))
