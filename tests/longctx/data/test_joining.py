"""Rows joined to one, for attention.across_rows: the same training step, and even work over all rows of a batch."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.meter import rows as meter
from experiments.run import batches
from longctx import meshes, optim, training
from longctx.config import (
    AttentionConfig,
    Config,
    DataConfig,
    MemoryConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RopeConfig,
    SourceConfig,
    StageConfig,
)
from longctx.data import curriculum
from longctx.data.joining import joined
from longctx.errors import UserError
from tests.helpers import slow

ROWS, LENGTH = 4, 32
MIX = SourceConfig(name="code"), SourceConfig(name="web")
CONFIG = Config(
    batch_tokens=ROWS * LENGTH,
    stages=(StageConfig(seq_len=LENGTH, steps=10),),
    optim=OptimConfig(warmup_steps=2),
    data=DataConfig(mix=MIX),
    model=ModelConfig(
        vocab_size=32,
        layers=1,
        d_model=16,
        mlp_dim=32,
        heads=2,
        kv_heads=2,
        head_dim=8,
        dtype="float32",
        rope=RopeConfig(scaling="dynamic", original_length=16, factor=4.0),  # by the length of a row: 32, not 128
    ),
)


def packed_rows(seed=0):
    """Four rows of 32 slots: documents of unlike lengths and weights, the first row alone is one document."""
    rng = np.random.default_rng(seed)
    sizes = [[32], [5, 1, 20], [17, 15], [3, 3, 3, 3, 3]]
    segments, positions = np.zeros((2, ROWS, LENGTH), np.int32)
    for row, documents in enumerate(sizes):
        segments[row, : sum(documents)] = np.repeat(np.arange(1, len(documents) + 1), documents)
        positions[row, : sum(documents)] = np.concatenate([np.arange(size) for size in documents])
    tokens = rng.integers(0, 32, (ROWS, LENGTH + 1)).astype(np.int32)
    weights = (rng.uniform(0, 2, (ROWS, LENGTH)) * (segments > 0)).astype(np.float32)
    sources = np.array([[True, False], [False, True], [True, False], [False, True]])
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights, "positions": positions}
    return batch | {"segments": segments, "sources": sources}


def trained(config):
    """(metrics of three steps, the parameters after them) of a config on packed_rows."""
    mesh, (stage, *_) = meshes.make(config.mesh), curriculum.plan(config)
    step = training.compile_step(config, optim.learning_rate(config.optim, [stage]), stage, mesh, sources=2)
    state, seen = training.init_state(config, mesh), []
    for seed in range(3):
        laid = batches.laid_out(config, stage.joined, packed_rows(seed))
        state, metrics = step(state, meshes.put_batch(laid, mesh))
        seen.append(metrics)
    return jax.device_get((seen, state["params"]))


@functools.cache
def apart():
    """What four rows apart give, on one device."""
    return trained(CONFIG)


def across(mesh=None, memory=None, **attention):
    return dataclasses.replace(
        CONFIG,
        mesh=mesh or MeshConfig(context_outer=2, context=2),
        memory=memory or MemoryConfig(),
        attention=AttentionConfig(across_rows=True, **attention),
    )


@pytest.mark.parametrize(
    "config",
    [
        across(strategy="dispatch", layout="balanced(4)"),
        *slow(
            across(MeshConfig(context=2), MemoryConfig(grad_accumulation=2), strategy="ring"),
            across(MeshConfig(data=2, context=2), strategy="ulysses", layout="striped"),
            across(strategy="double_ring", layout="per_document"),
            across(MeshConfig(context=2), MemoryConfig(backward="streamed", chunk_tokens=16), layout="striped(8)"),
        ),
    ],
    ids=lambda config: f"{config.attention.strategy} {config.mesh} {config.memory.backward}",
)
def test_a_step_over_joined_rows_is_that_of_the_rows_apart(config):
    """Losses, those of two sources, gradient norms, and parameters after three steps; RoPE's scaling knows the rows."""
    (stage,) = curriculum.plan(config)
    assert stage.joined > 1 and stage.shape == (ROWS // stage.joined, LENGTH * stage.joined)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=3e-4, atol=3e-6), trained(config), apart())


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 12]))
def test_documents_stay_what_they_were(seed, count):
    rng = np.random.default_rng(seed)
    segments = np.sort(rng.integers(0, 4, (12, 10)), axis=1).astype(np.int32)
    batch = {"segments": segments, "positions": rng.integers(0, 9, (12, 10)), "sources": rng.random((12, 3)) < 0.5}
    found = joined(dict(batch), count)
    assert found["segments"].shape == (12 // count, 10 * count)
    new = found["segments"].reshape(12, 10)
    assert ((new == 0) == (segments == 0)).all() and new.max() <= 10 * count
    for row in range(12):
        for other in range(row - row % count, row - row % count + count):
            same = new[row][:, None] == new[other]
            old = (segments[row][:, None] == segments[other]) & (row == other) & (segments[row][:, None] > 0)
            assert (same & (new[row][:, None] > 0) == old).all()
    np.testing.assert_array_equal(found["positions"].reshape(12, 10), batch["positions"])
    np.testing.assert_array_equal(found["sources"].reshape(12, 3), batch["sources"])
    if count > 1:
        np.testing.assert_array_equal(found["rows"].reshape(12, 10), np.tile(np.arange(12)[:, None] % count, 10))


def test_attention_is_even_over_all_rows_of_a_batch():
    """Documents as long as web pages, 4 rows over 16 shards: one row waits for another apart, and not joined."""
    stages = (StageConfig(seq_len=16_384, steps=1),)
    base = Config(batch_tokens=4 * 16_384, stages=stages, attention=AttentionConfig("auto", "dispatch", "balanced(32)"))

    def work(mesh, across_rows):
        config = dataclasses.replace(
            base, mesh=mesh, attention=dataclasses.replace(base.attention, across_rows=across_rows)
        )
        (stage,) = curriculum.plan(config)
        return meter.measured(config, stage, meter.of_lengths(config, stage, "web"))

    assert work(MeshConfig(context_outer=4, context=4), True).work <= 1.02
    # the rows of `apart` are measured one by one: even inside, and one of them has most of the batch's pairs
    lengths = next(meter.of_lengths(base, curriculum.plan(base)[0], "web"))["positions"]
    pairs = lengths.astype(float).sum(1)
    assert pairs.max() / pairs.mean() > 1.1


def test_what_cannot_be_joined():
    for config, reason in (
        (across(MeshConfig(data=4)), "ranks take one of the 4 rows of a step at a time"),
        (across(memory=MemoryConfig(grad_accumulation=4)), "so there are none to join; mesh.context_outer in place"),
    ):
        with pytest.raises(UserError, match=reason):
            curriculum.plan(config)
    from longctx import layouts
    from longctx.positions import checks

    config = across(MeshConfig(context=24), layout="contiguous")
    with pytest.raises(UserError, match=r"stages\[0\].seq_len=128 must divide by 24 .* \(joined, 4 x 32\)"):
        layouts.check_stages(config, [stage.shape[1] for stage in curriculum.plan(config)])
    stage = StageConfig(seq_len=32, steps=1, augment="pose", augment_length=64)
    with pytest.raises(UserError, match="augment='pose' draws for each row, and attention.across_rows joins rows"):
        checks.check_augmentations(dataclasses.replace(across(), stages=(stage,)))
