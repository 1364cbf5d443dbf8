"""The streamed backward against autodiff: parameters, moments, losses and gradient norms after two steps."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from longctx import layouts, meshes, optim, training
from longctx.config import (
    AttentionConfig,
    Config,
    LayerConfig,
    LoraConfig,
    MemoryConfig,
    MeshConfig,
    OptimConfig,
    RopeConfig,
    StageConfig,
)
from longctx.data import curriculum
from longctx.memory import host
from tests.helpers import assert_close, nightly, slow
from tests.longctx.model.test_transformer import TINY, batch

B, T = 4, 32
ONE, AUTODIFF = MeshConfig(), MemoryConfig()
CLIPPED = OptimConfig(warmup_steps=2)
PLAIN = dataclasses.replace(TINY, layers=3)
# two kinds of layers, one of them left over; everything that is learned outside of the blocks, and what attention has
RICH = dataclasses.replace(
    TINY,
    layers=5,
    tied_head=True,
    qkv_bias=True,
    qk_norm="rms",
    learned_sinks=True,
    attention_soft_cap=4.0,
    logit_soft_cap=5.0,
    pattern=(LayerConfig(mask="causal & window(9)"), LayerConfig(position="t5")),
)
RICH_PAIR = dataclasses.replace(RICH, layers=4)  # none left over: a body less to compile
STAGE = StageConfig(seq_len=T, steps=10)


@functools.cache
def compiled(config: Config):
    mesh, stages = meshes.make(config.mesh), curriculum.plan(config)
    return mesh, training.compile_step(config, optim.learning_rate(config.optim, stages), stages[0], mesh)


def steps(config: Config, weights=(1.0, 1.0), rows=B):
    """[(state, metrics)] after each step on another batch of packed documents, its tokens weighing as much."""
    mesh, step = compiled(config)
    state, result = training.init_state(config, mesh), []
    for seed, weight in enumerate(weights):
        data = batch(B=rows, T=T, seed=seed)
        data["weights"] = data["weights"] * np.float32(weight)
        data = layouts.lay_out(data, config.attention.layout, config.mesh.context_shards)
        state, metrics = step(state, meshes.put_batch(data, mesh))
        result.append(jax.device_get((state, metrics)))
    return result


def run_of(model, mesh=ONE, memory=AUTODIFF, layout="zigzag", strategy="ring", stage=STAGE, rows=B):
    return Config(
        batch_tokens=rows * T,
        stages=(stage,),
        model=model,
        mesh=mesh,
        memory=memory,
        optim=CLIPPED,
        attention=AttentionConfig("chunked", strategy, layout),  # "auto" has another kernel for few queries
    )


def assert_as_autodiff(config: Config, mesh=ONE, terms=1000):
    """Asserts the numbers of plain autodiff on `mesh`, but for the rounding of sums of that many terms."""
    plain = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, remat="none"),
        memory=AUTODIFF,
        mesh=mesh,
        attention=AttentionConfig(),
    )
    assert_close(steps(config), steps(plain), "float32", terms)


def streamed(chunk, every=1, clip="exact", offload=(), keep_attention=False):
    return MemoryConfig("streamed", chunk, every, keep_attention, clip, offload)


@pytest.mark.canary
@pytest.mark.slow
def test_on_one_device_in_two_ways_back():
    assert_as_autodiff(run_of(PLAIN, memory=streamed(8, every=2, clip="exact_twice")))


@pytest.mark.slow
def test_by_a_ring_over_stripes():
    assert_as_autodiff(run_of(PLAIN, MeshConfig(context=4), streamed(16, keep_attention=True), "striped(4)"))


@pytest.mark.parametrize("clip", [*slow("exact"), *nightly("delayed")])
def test_without_clipping(clip):
    config = run_of(PLAIN, memory=streamed(16, clip=clip))
    assert_as_autodiff(dataclasses.replace(config, optim=dataclasses.replace(CLIPPED, clip_norm=0.0)))


FAR_AWAY = dataclasses.replace(TINY, block="parallel_shared", position="dca(12, 4)", query_scale="log_length(16)")
SUMS_OF_NORMS = dataclasses.replace(
    TINY,
    layers=4,
    block="sandwich",
    norm="layer_bias",
    feed_forward="llama4",
    experts=4,
    experts_per_token=2,
    expert_mlp_dim=16,
    pattern=(LayerConfig(), LayerConfig(feed_forward="plain")),
)


@pytest.mark.slow
def test_all_mesh_axes_all_on_the_hosts_and_all_that_a_model_may_have():
    memory = streamed(8, 2, offload=host.NAMES, keep_attention=True)
    assert_as_autodiff(run_of(RICH, MeshConfig(fsdp=2, context=2, tensor=2), memory))


@pytest.mark.parametrize(
    "model, mesh, memory, layout, strategy",
    [
        *slow(
            (PLAIN, MeshConfig(context=2), streamed(8), "zigzag", "ulysses"),
            (PLAIN, MeshConfig(fsdp=2, context=4), streamed(16), "per_document", "dispatch"),
        ),
        *nightly(
            (FAR_AWAY, MeshConfig(context=2), streamed(8, 2), "contiguous", "double_ring"),
            (RICH_PAIR, MeshConfig(context=4), streamed(8), "zigzag", "ulysses"),
            (RICH_PAIR, MeshConfig(fsdp=2, context_outer=2, context=2), streamed(16, 4), "striped(4)", "usp"),
            (PLAIN, MeshConfig(data=2, context=2), streamed(32), "contiguous", "all_gather"),
            (PLAIN, MeshConfig(context=2), streamed(8), "striped(2)", "token_ring"),
            (PLAIN, MeshConfig(context=2), streamed(8), "striped(2)", "rsa"),
            (SUMS_OF_NORMS, MeshConfig(fsdp=2, tensor=2), streamed(16), "zigzag", "ring"),
        ),
    ],
)
def test_models_strategies_and_layouts(model, mesh, memory, layout, strategy):
    """Keys far away, found in every pair of chunks; mixtures of experts, sums of norms, as many layers as slots."""
    assert_as_autodiff(run_of(model, mesh, memory, layout, strategy))


@pytest.mark.parametrize("augment", [*slow("pose"), *nightly("clex")])
def test_positions_that_are_spread_out_and_a_learned_scaling(augment):
    rope = RopeConfig(scaling="clex", factor=4.0, original_length=T) if augment == "clex" else RopeConfig()
    stage = dataclasses.replace(STAGE, augment=augment, augment_length=4 * T)
    model = dataclasses.replace(TINY, rope=rope, position="self_extend(3, 8)" if augment == "pose" else "rope")
    assert_as_autodiff(
        run_of(model, MeshConfig(context=2), streamed(8), "striped(4)", stage=stage),
        MeshConfig(context=2),
        terms=4 * B * T * 2 * TINY.heads * TINY.head_dim,
    )  # of a learned scaling; squares of gradients have twice their relative error


LORA = LoraConfig(rank=2, targets=("attention.w*", "blocks.1.mlp.*"))
ADAPTED = dataclasses.replace(RICH_PAIR, lora=LORA)
ENDS = dataclasses.replace(PLAIN, lora=dataclasses.replace(LORA, targets=("mlp.down", "embedding.table", "head")))


@pytest.mark.parametrize(
    "model, trains, memory, mesh",
    [
        *slow(
            (ADAPTED, ("norm.scale", "*mlp_norm*"), streamed(8, 2, offload=host.NAMES), MeshConfig(fsdp=2, tensor=2))
        ),
        *nightly(
            (ADAPTED, (), streamed(16, clip="delayed"), ONE),
            (PLAIN, ("head",), streamed(8), ONE),
            (RICH_PAIR, ("embedding.table", "bias_table"), streamed(16, clip="exact_twice"), MeshConfig(context=2)),
            (RICH_PAIR, ("blocks.1.*",), streamed(8), ONE),
            (ENDS, (), streamed(8), MeshConfig(fsdp=2, tensor=2)),
        ),
    ],
)
def test_a_part_of_the_parameters(model, trains, memory, mesh):
    """Without clipping where `delayed` would not clip the first step; AdamW makes small gradients' rounding larger."""
    clip = 0.0 if memory.clip_mode == "delayed" else CLIPPED.clip_norm
    optim = dataclasses.replace(CLIPPED, trains=trains, clip_norm=clip)
    assert_as_autodiff(dataclasses.replace(run_of(model, mesh, memory), optim=optim), terms=10_000)


@pytest.mark.slow
def test_delayed_clipping_is_by_the_norm_of_the_step_before():
    config = run_of(PLAIN, memory=streamed(16, clip="delayed"), rows=2)
    norms, first_moments = [], []
    for state, metrics in steps(config, rows=2):
        norms.append(float(metrics["grad_norm"]))
        first_moments.append(state["moments"][0].mu)
        assert state["grad_norm"] == metrics["grad_norm"]
    leaves = lambda *trees: zip(*map(jax.tree.leaves, trees), strict=True)
    norm = lambda x, y: np.sqrt(sum(np.square(a - b).sum() for a, b in leaves(x, y)))
    b1, limit = config.optim.b1, config.optim.clip_norm
    assert norms[0] > limit  # or there is nothing to see
    nothing = jax.tree.map(np.zeros_like, first_moments[0])
    assert norm(first_moments[0], nothing) == pytest.approx((1 - b1) * norms[0], rel=1e-4)
    added = norm(first_moments[1], jax.tree.map(lambda m: b1 * m, first_moments[0]))
    assert added == pytest.approx((1 - b1) * norms[1] * limit / norms[0], rel=1e-4)


@pytest.mark.parametrize(
    "memory, rows", [(streamed(16, clip="delayed"), 2), *nightly((streamed(8, every=2, clip="exact_twice"), B))]
)
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(memory, rows):
    good, bad, again = steps(run_of(PLAIN, memory=memory, rows=rows), (1.0, np.nan, 1.0), rows)
    for name in ("params", "moments", "grad_norm"):
        jax.tree.map(np.testing.assert_array_equal, bad[0][name], good[0][name])
    counters = lambda result: [int(result[1][name]) for name in ("skipped", "skipped_in_a_row")]
    assert [counters(result) for result in (good, bad, again)] == [[0, 0], [1, 1], [1, 0]]
    assert np.isfinite(again[1]["loss"]) and int(again[0]["step"]) == 3


@pytest.mark.parametrize(
    "memory, rows", [(streamed(16, clip="delayed"), 2), *nightly((streamed(8, every=2, clip="exact_twice"), B))]
)
def test_an_update_that_is_not_finite_leaves_a_finite_state_and_is_counted(memory, rows):
    """An update of one layer that is not finite: the layer stays as it is, with all that is updated after it."""
    config = run_of(PLAIN, memory=memory, rows=rows)
    mesh, step = compiled(config)
    state = training.init_state(config, mesh)
    adam, *rest = state["moments"]
    spoilt = lambda x: x.at[1].add(1e38) if x.ndim > 1 and len(x) == PLAIN.layers else x
    state["moments"] = adam._replace(mu=adam.mu | {"blocks": jax.tree.map(spoilt, adam.mu["blocks"])}), *rest
    before = jax.device_get(state["params"])
    data = layouts.lay_out(batch(B=rows, T=T, seed=0), config.attention.layout, 1)
    state, metrics = jax.device_get(step(state, meshes.put_batch(data, mesh)))
    assert np.isfinite(metrics["loss"]) and metrics["skipped_in_a_row"] == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    jax.tree.map(np.testing.assert_array_equal, state["params"]["embedding"], before["embedding"])
    same = [
        np.array_equal(a[1], b[1])
        for a, b in zip(*map(jax.tree.leaves, (state["params"]["blocks"], before["blocks"])), strict=True)
    ]
    assert all(same)


def test_parameters_and_moments_rest_where_they_are_offloaded_to():
    config = run_of(PLAIN, MeshConfig(fsdp=2), streamed(16, offload=("moments",)))
    mesh = meshes.make(config.mesh)
    state, abstract = training.init_state(config, mesh), training.abstract_state(config, mesh)
    kinds = lambda tree: {
        jax.tree_util.keystr(path): (x.sharding.memory_kind, x.ndim)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    assert kinds(state) == kinds(abstract)
    for path, (kind, ndim) in kinds(state).items():
        assert kind == ("pinned_host" if "moments" in path and "blocks" in path and ndim > 2 else "device"), path
