"""Kinds of layers: published patterns against the dense decoder, the same on every mesh, and what a shift changes."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longctx import loss, meshes
from longctx.config import AttentionConfig, LayerConfig, MeshConfig, RopeConfig
from longctx.model import functional
from tests.helpers import assert_close, slow
from tests.longctx.model.test_transformer import TINY, batch, dense, nll_and_grads, setup

# patterns as published; layers are left over in the last two
PRESETS = {
    "SmolLM3": dataclasses.replace(TINY, layers=4, pattern=3 * (LayerConfig(),) + (LayerConfig(position="nope"),)),
    "Llama 4": dataclasses.replace(
        TINY,
        layers=5,
        rope=RopeConfig(theta=500_000.0, pairing="interleaved"),
        pattern=(
            3 * (LayerConfig(mask="causal & chunked(8)"),)
            + (LayerConfig(position="nope", query_scale="llama4(8, 0.1)"),)
        ),
    ),
    "Gemma 3": dataclasses.replace(
        TINY,
        layers=8,
        rope=RopeConfig(theta=1e6, scaling="linear", factor=8.0),
        qk_norm="rms",
        pattern=5 * (LayerConfig(mask="causal & window(6)", rope=RopeConfig(theta=1e4)),) + (LayerConfig(),),
    ),
}
MIXED = dataclasses.replace(
    TINY,
    layers=3,
    pattern=(
        LayerConfig(position="self_extend(3, 8)", query_scale="log_length(16)"),
        LayerConfig(position="t5", mask="causal & window(9)"),
    ),
)


@pytest.mark.parametrize("preset", ["SmolLM3", *slow(*(preset for preset in PRESETS if preset != "SmolLM3"))])
def test_published_patterns(preset):
    config, data = PRESETS[preset], batch(B=2)
    mesh, graph, params = setup(config, MeshConfig())
    with jax.set_mesh(mesh):
        placed = meshes.put_batch(data, mesh)
        logits = jax.jit(lambda p: functional.logits(graph, p, placed))(params)
    assert_close(logits, dense(config, params, data), "float32", 1000)


@pytest.mark.slow
def test_kinds_are_the_same_on_every_mesh():
    """A method of two parts, a factor on queries, and a learned bias that layers share; a layer is left over."""
    data = batch(B=2)
    _, grads = want = nll_and_grads(MIXED, MeshConfig(), data)
    assert_close(nll_and_grads(MIXED, MeshConfig(context=2, tensor=2), data, "zigzag"), want, "float32", 1000)
    assert np.abs(grads["bias_table"]).max() > 0


def test_a_pattern_needs_no_other_weights():
    """So the checkpoints of a model can be read with another pattern, such as a method that needs no training."""
    with jax.set_mesh(meshes.make(MeshConfig())):
        shapes = lambda config: jax.eval_shape(lambda: functional.init(config, AttentionConfig(), jax.random.key(0)))
        assert shapes(dataclasses.replace(TINY, pattern=MIXED.pattern[:1])) == shapes(TINY)


# ---- any kinds: no NaN, and what all positions may be moved by (None: nothing)

POSITIONS = {
    "rope": 1,
    "nope": 1,
    "alibi": 1,
    "t5": 1,
    "rerope(5)": 1,
    "leaky_rerope(5, 3)": 1,
    "self_extend(3, 6)": 3,
    "dca(12, 4)": 8,
    "lm_infinite(2, 6)": None,
    "streaming(2, 6)": None,
}
MASKS = {"causal": 1, "causal & window(9)": 1, "causal & chunked(10)": 10, "causal & (window(5) | sinks(2))": None}
QUERY_SCALES = {"none": 1, "llama4(8, 0.1)": None, "log_length(16)": None}
kind = lambda *names: st.builds(LayerConfig, *(st.sampled_from(list(known)) for known in names))
relative = kind(*([name for name, period in table.items() if period] for table in (POSITIONS, MASKS, QUERY_SCALES)))
any_kind = kind(POSITIONS, MASKS, QUERY_SCALES)


@pytest.mark.slow
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.tuples(relative, relative) | st.tuples(any_kind, any_kind), st.integers(0, 99))
def test_any_kinds(kinds, seed):
    config = dataclasses.replace(TINY, layers=2, pattern=kinds, remat="none")
    attention, mesh = AttentionConfig(kernel="reference"), meshes.make(MeshConfig())
    periods = [
        table[name]
        for kind in kinds
        for table, name in ((POSITIONS, kind.position), (MASKS, kind.mask), (QUERY_SCALES, kind.query_scale))
    ]
    with jax.set_mesh(mesh):
        params = jax.jit(lambda: functional.init(config, attention, jax.random.key(seed)))()
        if "bias_table" in params:
            params["bias_table"] += np.random.default_rng(seed).standard_normal((4, 32), np.float32)
        graph = functional.graph(config, attention)

        def mean(params, batch):
            nll = functional.nll(graph, params, batch)
            return loss.mean_over_tokens(nll, batch["weights"]), nll

        step = jax.jit(jax.value_and_grad(mean, has_aux=True))
        placed = meshes.put_batch(batch(B=1, T=24, seed=seed), mesh)
        (_, here), grads = result = step(params, placed)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))
        if None not in periods:
            moved = step(params, placed | {"positions": placed["positions"] + 240 * math.lcm(*periods)})
            assert_close((moved[0][1], moved[1]), (here, grads), "float32", 1000)
