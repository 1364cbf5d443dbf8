"""Runs that cannot fit are refused in a line before anything is allocated, and those that fit are not."""

import dataclasses

import jax
import pytest

from experiments.meter.memory import closed_form
from experiments.planner import price
from experiments.run import checks
from longctx import meshes, optim, training
from longctx.config import Config, EvalConfig, LoraConfig, MemoryConfig, MeshConfig, ModelConfig, StageConfig
from longctx.data import curriculum
from longctx.errors import UserError

TINY = ModelConfig(layers=2, d_model=32, mlp_dim=48, heads=4, kv_heads=2, head_dim=8, vocab_size=64, remat="layer")
GB = 10**9


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes are free."""
    return lambda count: monkeypatch.setattr(price, "free_memory", lambda: count)


def refused(config: Config, lengths=(), train=True) -> str:
    with pytest.raises(UserError) as caught:
        price.check(config, meshes.make(config.mesh), curriculum.plan(config) if train else (), lengths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def bytes_of(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "fields, fits",
    [
        (dict(d_model=10**9), "model.d_model="),
        (dict(layers=10**6), "model.layers="),
        (dict(mlp_dim=10**15), "model.mlp_dim="),
        (dict(vocab_size=10**13), "model.vocab_size="),
        (dict(head_dim=10**9), "model.head_dim="),
    ],
)
def test_a_size_without_end_is_answered_with_one_that_fits(fields, fits, free):
    free(GB)
    said = refused(Config(model=dataclasses.replace(TINY, **fields), stages=(StageConfig(steps=1),)))
    assert said.startswith("parameters, moments and gradients take at least") and "1.00 GB are free; at most " in said
    name, number = said.rstrip(" fits.").split("at most model.")[1].split("=")
    best = lambda more: Config(
        model=dataclasses.replace(TINY, **{name: int(number) + more}),
        batch_tokens=2,
        stages=(StageConfig(seq_len=2, steps=1),),
    )
    assert fits == f"model.{name}="
    mesh = meshes.make(MeshConfig())
    price.check(best(0), mesh, curriculum.plan(best(0)))
    with pytest.raises(UserError):
        price.check(best(2), mesh, curriculum.plan(best(2)))


@pytest.mark.parametrize("mesh, copies", [(MeshConfig(), 1), (MeshConfig(data=4), 4), (MeshConfig(fsdp=4), 1)])
def test_what_is_counted_is_what_all_devices_of_a_machine_hold(mesh, copies, free):
    """Parameters and moments, and half as much as the parameters, for gradients may be bfloat16; in the memory of the
    hosts too, for simulated devices have no other."""
    for memory in (MemoryConfig(), MemoryConfig(offload=("moments", "params", "grads"))):
        config = Config(model=dataclasses.replace(TINY, vocab_size=4096), mesh=mesh, memory=memory, batch_tokens=2048)
        state = training.abstract_state(config, meshes.make(mesh))
        need = bytes_of(state["moments"]) + 1.5 * bytes_of(state["params"])
        free(int(1.1 * copies * need))
        price.check(config, meshes.make(mesh), curriculum.plan(config))
        free(int(0.9 * copies * need))
        assert "take at least" in refused(config)


def test_long_rows_are_answered_with_shorter_ones(free):
    free(GB)
    stage = StageConfig(seq_len=2**20, steps=1)
    assert "rows of 7,8" in (said := refused(Config(model=TINY, stages=(stage,), batch_tokens=2**24)))
    assert said.startswith("parameters, moments and the inputs of layers take at least 2.15 GB")
    said = refused(Config(model=TINY), lengths=(2**28,), train=False)
    assert said.startswith("parameters and the hidden states of a row take at least 17.18 GB")
    none = dataclasses.replace(TINY, remat="none")  # of which nothing is known to be kept
    config = Config(model=none, stages=(stage,), batch_tokens=2**24)
    price.check(config, meshes.make(config.mesh), curriculum.plan(config))


@pytest.mark.parametrize("mesh, copies", [(MeshConfig(), 1), (MeshConfig(data=2, context=2, tensor=2), 2)])
def test_a_cache_is_counted_before_it_is_made(mesh, copies, free):
    """Two layers of 2 key heads of 8 numbers, 2 bytes each, and a token's place; a row for each data-parallel rank."""
    config, devices = Config(model=TINY, mesh=mesh), meshes.make(mesh)
    check = lambda config, cached: price.check(config, devices, cached=cached)
    free(copies * 10**6 * (128 + 8 * mesh.tensor) + 10**6)
    check(config, 10**6)
    with pytest.raises(
        UserError, match="^parameters and the keys and values of a row take at least .*; at most rows of 1,0"
    ):
        check(config, 11 * 10**5)
    check(dataclasses.replace(config, model=dataclasses.replace(TINY, mask="causal & window(64)")), 10**9)


def test_memory_that_nobody_knows_refuses_nothing(free):
    free(None)
    config = Config(model=dataclasses.replace(TINY, d_model=10**9), batch_tokens=2**36)
    price.check(config, meshes.make(config.mesh), curriculum.plan(config))
    price.check_rows(config, curriculum.plan(config))


class Accelerator:
    platform = "gpu"

    def memory_stats(self):
        return {"bytes_limit": 5 * GB, "bytes_in_use": GB}


def test_devices_and_their_host_are_told_apart(free):
    free(10 * GB)
    mesh = type("Mesh", (), {"local_devices": [Accelerator()] * 4})()
    device, host = price._pools(mesh)
    assert (device.free, device.devices, device.holds) == (4 * GB, 1, (False,))
    assert (host.free, host.devices, host.holds) == (10 * GB, 4, (True,))


def test_the_rows_of_a_step_are_priced_before_the_data_is_read(free, monkeypatch):
    free(GB)
    monkeypatch.setattr(checks, "_load_data", None)
    with pytest.raises(UserError, match=r"^batch_tokens=68719476736: .* 1,374.39 GB .* batch_tokens=49999872 fits"):
        checks.check(Config(batch_tokens=2**36), "run")
    own = dataclasses.replace(Config().stages[0], batch_tokens=2**36)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    with pytest.raises(UserError, match=r"^stages\[0\].batch_tokens=68719476736: .* 343.60 GB"):
        checks.check(Config(stages=(own,)), "run")


@pytest.mark.parametrize(
    "config, says",
    [
        (Config(eval=EvalConfig(lengths=(512, 10**12))), "eval.lengths asks for 1000000000000 tokens"),
        (
            Config(stages=(StageConfig(seq_len=10**12, steps=1),), batch_tokens=10**12),
            "stages[0].seq_len asks for 1000000",
        ),
        (Config(mesh=MeshConfig(simulate=10**6)), "mesh.simulate=1000000 is more than the 2048 devices"),
    ],
)
def test_numbers_that_nothing_can_have(config, says):
    with pytest.raises(UserError) as caught:
        checks.check_settings(config)
    assert says in str(caught.value)


@pytest.mark.slow
def test_moments_and_gradients_are_those_of_the_trained_part(free):
    """The compiler's own count agrees: what adapters save is the moments and the gradients of all other weights."""
    model = dataclasses.replace(TINY, d_model=128, mlp_dim=512, vocab_size=512)
    whole = Config(model=model, batch_tokens=64, stages=(StageConfig(seq_len=64, steps=1),))
    tuned = dataclasses.replace(whole, model=dataclasses.replace(model, lora=LoraConfig(rank=2, targets=("mlp.*",))))
    mesh, sizes, compiled = meshes.make(MeshConfig()), {}, {}
    for config in (whole, tuned):
        state, stages = training.abstract_state(config, mesh), curriculum.plan(config)
        sizes[config] = {use.kind: use.bytes for use in closed_form(config, state, 64, 1)}
        step = training.compile_step(config, optim.learning_rate(config.optim, stages), stages[0], mesh)
        analysis = step.memory_analysis()
        compiled[config] = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    weights = bytes_of(training.abstract_state(whole, mesh)["params"])
    adapters = 2 * 2 * 3 * (128 + 512) * 4  # layers, rank, weights, dimensions, bytes
    assert sizes[whole]["gradients"] == weights and sizes[tuned]["gradients"] == adapters
    assert sizes[tuned]["parameters"] == weights + adapters
    assert sizes[tuned]["optimiser"] == pytest.approx(2 * adapters, abs=64)
    (whole_held, whole_works), (held, works) = compiled[whole], compiled[tuned]
    assert whole_held - held == pytest.approx(2 * weights - 3 * adapters, rel=1e-3)
    assert whole_works - works > 0.9 * (weights - adapters)

    narrow = dataclasses.replace(tuned, model=dataclasses.replace(tuned.model, param_dtype="bfloat16"))
    free(int(0.7 * weights))
    price.check(narrow, mesh, curriculum.plan(narrow))
    assert "take at least" in refused(whole)
