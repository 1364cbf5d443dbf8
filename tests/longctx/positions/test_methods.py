"""Position methods against dense definitions of the distance between a query and a key, written from the papers."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.config import LayerConfig, MeshConfig, RopeConfig
from longctx.context_parallel import api as context_parallel
from longctx.errors import UserError
from longctx.positions import api, methods, rope
from longctx.positions.view import View, learned_numbers, resolve, view
from pallas_kernels import masks
from pallas_kernels.attention.spec import AttentionSpec
from tests.helpers import Problem, assert_close, nightly, packed, problem, relative_error, slow, tolerance, truth
from tests.longctx.context_parallel.capabilities import TWO_LEVELS
from tests.longctx.context_parallel.cut import run

ROPE, H, T = RopeConfig(theta=100.0), 8, 48
CAUSAL = LayerConfig(position="rope", mask="causal", query_scale="none")
METHODS = ["dca(12, 4)", "self_extend(3, 8)", "rerope(7)", "leaky_rerope(7, 3)", "lm_infinite(3, 9)", "streaming(2, 8)"]


# ---- definitions: (query position m, key position n <= m, the numbers) -> distance, nan where the key is not seen


def dca(m, n, chunk, local):
    size = chunk - local
    largest = min(2 * size - 1, chunk)  # `chunk` itself, as published sizes are
    place = {0: m % size, 1: min(m % size + size, chunk)}.get(m // size - n // size, largest)
    return place - n % size


def self_extend(m, n, group, window):
    return m - n if m - n < window else m // group + window - window // group - n // group


def rerope(m, n, window):
    return min(m - n, window)


def leaky_rerope(m, n, window, divisor):
    return m - n if m - n < window else window + (m - n - window) / divisor


def lm_infinite(m, n, first, window):
    return min(m - n, window) if n < first or m - n < window else np.nan


def streaming(m, n, first, recent):
    cache = list(range(m + 1)) if m < first + recent else [*range(first), *range(m - recent + 1, m + 1)]
    return len(cache) - 1 - cache.index(n) if n in cache else np.nan


DEFINITIONS = {
    "dca": dca,
    "self_extend": self_extend,
    "rerope": rerope,
    "leaky_rerope": leaky_rerope,
    "lm_infinite": lm_infinite,
    "streaming": streaming,
    "rope": lambda m, n: m - n,
}


def defined(text: str, positions: np.ndarray) -> np.ndarray:
    """The distance of every pair, nan where a causal layer does not see it: [T] -> [T, T]."""
    name, *numbers = re.findall(r"[a-z_]+|\d+", text)
    numbers = [int(x) for x in numbers]
    return np.array([[DEFINITIONS[name](m, n, *numbers) if n <= m else np.nan for n in positions] for m in positions])


def of_parts(text: str, positions: np.ndarray) -> np.ndarray:
    """The same from the parts of the method; no pair may be in two of them."""
    tokens = masks.TokenInfo(jnp.asarray(positions, jnp.int32), jnp.ones(len(positions), jnp.int32))
    distances = np.full((len(positions),) * 2, np.nan)
    for part in methods.parse(text).parts():
        see = np.asarray(masks.visible(masks.Causal() & part.mask, tokens, tokens))
        assert np.isnan(distances[see]).all(), f"{part} and another part share pairs"
        q, k = (np.asarray(of(tokens.positions), np.int64) for of in (part.query, part.key))
        assert q.min() >= 0 and k.min() >= 0
        distances[see] = ((q[:, None] - k[None]) / part.divisor)[see]
    return distances


small = st.integers(1, 12)
texts = st.one_of(
    st.tuples(small, small).map(lambda x: f"dca({x[0] + x[1]}, {x[1]})"),
    st.tuples(small, small).map(lambda x: f"self_extend{x}"),
    small.map(lambda x: f"rerope({x})"),
    st.tuples(small, small).map(lambda x: f"leaky_rerope{x}"),
    st.tuples(small, small).map(lambda x: f"lm_infinite{x}"),
    st.tuples(small, small).map(lambda x: f"streaming{x}"),
)


@settings(max_examples=40, deadline=None)
@given(texts)
def test_parts_are_what_the_definition_says(text):
    got, want = of_parts(text, np.arange(40)), defined(text, np.arange(40))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    assert_close(np.nan_to_num(got), np.nan_to_num(want), "float64", 1, text)


@pytest.mark.parametrize(
    "text",
    [
        "dca(58, 10)",
        "dca(40, 10)",
        "self_extend(1, 5)",
        "rerope(48)",
        "leaky_rerope(5, 1)",
        "lm_infinite(4, 48)",
        "streaming(4, 44)",
    ],
)
def test_plain_rope_as_long_as_the_definition_says_so(text):
    plain = of_parts("rope", np.arange(48))
    same = np.array_equal(of_parts(text, np.arange(48)), plain, equal_nan=True)
    assert same == (text != "dca(40, 10)")  # chunks of 30 tokens


def test_streaming_keeps_what_its_cache_holds():
    positions = np.arange(40)
    tokens = masks.TokenInfo(jnp.asarray(positions, jnp.int32), jnp.ones(40, jnp.int32))
    mask = masks.parse("causal & (window(8) | sinks(2))")
    kept = ~np.isnan(defined("streaming(2, 8)", positions))
    np.testing.assert_array_equal(np.asarray(masks.visible(mask, tokens, tokens)), kept)


# what all positions may be moved by with no change; None: never, because the first tokens are kept wherever others are
PERIODS = {
    "rope": 1,
    "rerope(7)": 1,
    "leaky_rerope(7, 3)": 1,
    "self_extend(3, 8)": 3,
    "dca(12, 4)": 8,
    "lm_infinite(3, 9)": None,
    "streaming(2, 8)": None,
}


@pytest.mark.parametrize("text", PERIODS)
def test_what_shifts_change(text):
    at = functools.partial(of_parts, text)
    start, period = np.arange(40), PERIODS[text]
    if period is None:
        assert not any(np.array_equal(at(start), at(start + shift), equal_nan=True) for shift in range(1, 9))
        return
    np.testing.assert_array_equal(at(start), at(start + 1000 * period))
    assert all(not np.array_equal(at(start), at(start + shift), equal_nan=True) for shift in range(1, period))


# ---- attention by parts


def by_method(q, k, v, *, positions, mask, bias_params, kind, **how):
    """api.attention as a layer of `kind` calls it; its mask takes the place of `mask`."""
    tables = lambda positions, divisor: rope.tables(positions, ROPE, H, T, divisor=divisor)
    seen = view(kind, positions, q.shape[2], tables, bias_params)
    how |= dict(positions=positions, mask=seen.masks, bias=seen.bias, bias_params=seen.bias_params)
    return context_parallel.attention(*seen.rotated(q, k), v, **how)


@functools.cache
def example() -> Problem:
    info = packed(3, 2, T, mean=30)
    return problem(T=T, H=H, N=2, K=1, infos=(info, info))


@functools.cache
def dense(text: str):
    """(out, lse, dq, dk, dv) by the definition, in float64."""
    p, (inv_freq, _) = example(), api.frequencies(ROPE, H, T)
    positions, segments = (np.asarray(x) for x in p.q_info)
    distance = np.stack([defined(text, row) for row in positions])
    see = ~np.isnan(distance) & (segments[:, :, None] == segments[:, None]) & (segments > 0)[:, :, None]
    angle = np.where(see, distance, 0)[..., None, None] * inv_freq  # B T S 1 p

    def attention(q, k, v):
        (q1, q2), (k1, k2) = (jnp.split(x, 2, axis=-1) for x in (q[:, :, None], k[:, None]))  # B T 1 N p, B 1 S 1 p
        scores = ((q1 * k1 + q2 * k2) * jnp.cos(angle) - (q2 * k1 - q1 * k2) * jnp.sin(angle)).sum(-1) / H**0.5
        weights = jnp.where(see[..., None], jnp.exp(scores), 0)  # B T S N
        total = weights.sum(2)
        out = jnp.einsum("BTSN,BSH->BTNH", weights, v[:, :, 0]) / jnp.where(total > 0, total, 1)[..., None]
        return out, jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)), -np.inf)

    with jax.enable_x64(True):
        q, k, v, dout, dlse = (jnp.asarray(np.asarray(x, np.float64)) for x in (p.q, p.k, p.v, p.dout, p.dlse))
        result, pull = jax.vjp(attention, q, k, v)
        return jax.tree.map(np.asarray, [*result, *pull((dout, jnp.where(jnp.isfinite(result[1]), dlse, 0.0)))])


@pytest.mark.parametrize(
    "text, config, layout",
    [
        *((text, MeshConfig(context=4), "zigzag") for text in METHODS),
        (METHODS[0], MeshConfig(), "contiguous"),
        *slow(*((text, MeshConfig(), "contiguous") for text in METHODS[1:])),
    ],
)
def test_values_and_gradients_are_those_of_the_dense_definition(text, config, layout):
    """Packed documents, on one device and by a ring over four."""
    kind = dataclasses.replace(CAUSAL, position=text)
    got = run(example(), masks.Causal(), config, layout, attend=by_method, kind=kind, strategy="ring")
    assert_close(got, dense(text), "float32", 200, text)
    assert relative_error(got[0], dense("rope")[0]) > tolerance("float32", 200)


THREE_PARTS = "local", "ulysses", "bidirectional_ring", "dispatch"  # before the nightly tier


@pytest.mark.parametrize(
    "strategy",
    [
        "ulysses",
        *slow("bidirectional_ring", "dispatch"),
        *nightly(*(name for name in context_parallel.STRATEGIES if name not in THREE_PARTS)),
    ],
)
def test_three_parts_under_every_strategy(strategy):
    config = MeshConfig(context_outer=2, context=2) if strategy in TWO_LEVELS else MeshConfig(context=2)
    got = run(
        example(),
        masks.Causal(),
        config,
        attend=by_method,
        strategy=strategy,
        kernel="chunked",
        kind=dataclasses.replace(CAUSAL, position="dca(12, 4)"),
    )
    assert_close(got, dense("dca(12, 4)"), "float32", 200, strategy)


@pytest.mark.parametrize("text", ["alibi", "t5", *slow("rope", "nope")])
def test_methods_of_one_part_by_a_ring_are_those_of_one_device(text):
    kind = dataclasses.replace(CAUSAL, position=text)
    table = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32)), jnp.float32) if text == "t5" else None
    local, ring = (
        run(example(), masks.Causal(), config, layout, table, attend=by_method, kind=kind, strategy="ring")
        for config, layout in ((MeshConfig(), "contiguous"), (MeshConfig(context=4), "zigzag"))
    )
    assert_close(ring, local, "float32", 200)


def in_parts(q, k, v, *, mask, parts, **how):
    """api.attention with the pairs cut into parts that are all rotated alike: not at all."""
    cut = [masks.ChunksBefore(8, i, i) for i in range(parts - 1)] + [masks.ChunksBefore(8, parts - 1)]
    seen = View(tuple(mask & part for part in cut), (None,) * parts, (None,) * parts, True, None, None, None)
    return context_parallel.attention(*seen.rotated(q, k), v, mask=seen.masks, **how)


def test_bfloat16_parts_are_merged_and_summed_in_float32():
    """out, lse and dv of eight parts are as near as those of one; dq and dk of each part are rounded once."""
    p = problem(T=64, B=1, H=H, dtype=jnp.bfloat16)
    want = truth(p, AttentionSpec(masks.Causal()))
    one, eight = (
        [relative_error(g, w) for g, w in zip(got, want, strict=True)]
        for got in (
            run(p, masks.Causal(), MeshConfig(), attend=in_parts, parts=parts, strategy="local") for parts in (1, 8)
        )
    )
    assert max(one + eight) <= tolerance("bfloat16", 64)
    assert all(eight[i] <= 1.25 * one[i] + 1e-4 for i in (0, 1, 4)), (one, eight)


def test_sinks_and_a_learned_bias_count_once():
    p, rng = example(), np.random.default_rng(0)
    table, sinks = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 32), (2,)))

    def attend(*arrays, **how):
        return in_parts(*arrays, bias=methods.T5().bias, sinks=sinks, **how)

    one = run(p, masks.Causal(), MeshConfig(), bias_params=table, attend=attend, parts=1, strategy="local")
    three = run(p, masks.Causal(), MeshConfig(context=4), "zigzag", table, attend=attend, parts=3, strategy="ring")
    assert_close(three, one, "float32", 200)


def test_parts_in_natural_order():
    p, near, far = example(), masks.Causal() & masks.Window(9), masks.Causal() & masks.Beyond(9)
    two = context_parallel.attention((p.q, p.q), (p.k, p.k), p.v, mask=(near, far), with_lse=True)
    assert_close(two, context_parallel.attention(p.q, p.k, p.v, mask=masks.Causal(), with_lse=True), "float32", 200)


# ---- settings


@pytest.mark.parametrize(
    "setting, words",
    [
        (dict(position="rop"), "model.position='rop' is not known. Did you mean 'rope'"),
        (dict(position="dca(4)"), r"model.position='dca\(4\)' must be dca\(chunk: int, local: int\), all positive"),
        (dict(position="self_extend(0, 8)"), r"must be self_extend\(group: int, window: int\)"),
        (dict(position="rerope(1.5)"), r"must be rerope\(window: int\)"),
        (dict(position="rope(3)"), "must be rope alone"),
        (dict(position="dca(4, 4)"), "local=4 must be below chunk=4"),
        (dict(position="dca(8, 4)", mask="full"), "the mask must be causal"),
        (dict(position="t5(32, 16)"), "max_distance above buckets / 2 = 16"),
        (dict(mask="casual"), "model.mask: 'casual'"),
        (dict(query_scale="llama4(8.5, 0.1)"), r"model.query_scale='llama4\(8.5, 0.1\)' must be llama4"),
        (dict(query_scale="llama4(0)"), r"must be llama4.*, all positive"),
        (dict(query_scale="log_length(1)"), r"model.query_scale='log_length\(1\)' .* length must be 2 or more"),
        (dict(query_scale="log_length"), r"must be log_length\(length: int\)"),
    ],
)
def test_settings_that_cannot_work_are_named(setting, words):
    with pytest.raises(UserError, match=words):
        resolve(dataclasses.replace(CAUSAL, **setting))


def test_every_method_and_temperature_can_be_written():
    texts = ["rope", "nope", "alibi", "t5", "t5(16, 64)", *METHODS]
    assert {text.split("(")[0] for text in texts} == set(methods.METHODS)
    assert [resolve(dataclasses.replace(CAUSAL, position=text))[0] for text in texts] == list(map(methods.parse, texts))
    positions = jnp.asarray([0, 8191], jnp.int32)
    factors = [
        resolve(dataclasses.replace(CAUSAL, query_scale=text))[2](positions)
        for text in ("none", "llama4", "llama4(8192, 0.1)", "log_length(64)")
    ]
    assert factors[0] is None and factors[1].tolist() == factors[2].tolist() != factors[3].tolist()


def test_layers_share_one_learned_bias():
    kinds = [dataclasses.replace(CAUSAL, position=text) for text in ("t5", "rope", "t5", "t5(8)")]
    assert learned_numbers(tuple(kinds[:3])) == 32 and learned_numbers(tuple(kinds[1:2])) == 0
    with pytest.raises(UserError, match=r"t5 and t5\(8\) are different"):
        learned_numbers(tuple(kinds))
