"""The cache: any way to read a row through it gives the logits of the uncached model, and it holds what it must."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longctx.config import LayerConfig, MeshConfig, RopeConfig
from longctx.errors import UserError
from longctx.generation import cache as caching
from pallas_kernels import masks
from tests.helpers import assert_close, later, nightly, slow
from tests.longctx.generation.helpers import LENGTH, ONE, TINY, cached, uncached

WIDTH = 8  # the most tokens read at once; also more than some windows hold
layer = LayerConfig
BASE = dict(original_length=16, factor=2.0)
LONGROPE = RopeConfig(scaling="longrope", short_factors=(1.0, 1.5, 2.0, 3.0), long_factors=(1.0, 2.0, 4.0, 8.0), **BASE)
MODELS = {
    "plain, window, window with sinks": dataclasses.replace(
        TINY,
        layers=4,
        learned_sinks=True,
        attention_soft_cap=4.0,
        pattern=(layer(), layer(mask="causal & window(6)"), layer(mask="causal & (window(5) | sinks(3))")),
    ),
    "Llama 4": dataclasses.replace(
        TINY,
        layers=3,
        qk_norm="l2",
        rope=RopeConfig(pairing="interleaved"),
        pattern=(layer(mask="causal & chunked(7)"), layer(position="nope", query_scale="llama4(8, 0.5)")),
    ),
    "biases": dataclasses.replace(
        TINY, block="parallel_shared", pattern=(layer(position="alibi"), layer(position="t5(8, 20)"))
    ),
    "rotations by region": dataclasses.replace(
        TINY,
        layers=3,
        block="sandwich",
        pattern=(
            layer(position="dca(12, 4)", query_scale="log_length(16)"),
            layer(position="self_extend(3, 8)"),
            layer(position="rerope(6)"),
        ),
    ),
    "bounded memory": dataclasses.replace(
        TINY,
        layers=3,
        pattern=(
            layer(position="leaky_rerope(6, 4)"),
            layer(position="lm_infinite(2, 6)"),
            layer(position="streaming(3, 5)"),
        ),
    ),
    "dynamic, longrope": dataclasses.replace(
        TINY, rope=RopeConfig(scaling="dynamic", **BASE), pattern=(layer(), layer(rope=LONGROPE))
    ),
    "clex": dataclasses.replace(TINY, layers=1, rope=RopeConfig(scaling="clex", original_length=16, factor=4.0)),
}


@st.composite
def readings(draw):
    """Rows of random lengths, read by random pieces: chunks of one size, single tokens, and rows that pause."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    lengths = np.array(draw(st.lists(st.integers(1, LENGTH), min_size=2, max_size=2)))
    chunk, alone = draw(st.integers(1, WIDTH)), draw(st.integers(0, LENGTH))
    counts, done = [], np.zeros(2, int)
    while (done < lengths).any():
        count = np.where(done < lengths - alone, chunk, rng.integers(0, 2, 2))
        counts.append(np.minimum(count, lengths - done))
        done = done + counts[-1]
    return rng.integers(0, TINY.vocab_size, (2, LENGTH)).astype(np.int32), lengths, np.array(counts)


def check(config, reading, mesh_config=ONE, length=None):
    tokens, lengths, counts = reading
    got, done, cache = cached(config, tokens, counts, WIDTH, mesh_config, length or LENGTH)
    np.testing.assert_array_equal(done, lengths)
    want = uncached(config, tokens, lengths, length=length)
    inside = np.arange(LENGTH)[None] < lengths[:, None]
    assert_close(got[inside], want[inside], "float32", 1000)
    return cache


@pytest.mark.parametrize("name", later(MODELS, "clex", "bounded memory"))
def test_any_reading_gives_the_logits_of_the_uncached_model(name):
    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(readings())
    def any_reading(reading):
        check(MODELS[name], reading)

    any_reading()


def whole(seed=0, chunk=WIDTH, B=2):
    """Rows as long as can be, read in chunks and by single tokens at the end."""
    counts = [chunk] * (LENGTH // chunk - 1) + [1] * chunk
    tokens = np.random.default_rng(seed).integers(0, TINY.vocab_size, (B, LENGTH)).astype(np.int32)
    return tokens, np.full(B, LENGTH), np.repeat(np.array(counts)[:, None], B, 1)


@pytest.mark.parametrize(
    "name, mesh_config",
    [
        ("plain, window, window with sinks", MeshConfig(context=4)),
        ("biases", MeshConfig(data=2, context=2, tensor=2)),
        *slow(
            ("rotations by region", MeshConfig(context_outer=2, context=2)), ("Llama 4", MeshConfig(fsdp=2, context=2))
        ),
        *nightly(("bounded memory", MeshConfig(context=4))),
    ],
)
def test_a_cache_cut_over_a_mesh(name, mesh_config):
    cache = check(MODELS[name], whole(), mesh_config)
    shards = mesh_config.context_shards
    for of_kind in cache:
        held = np.asarray(of_kind.info.segments).reshape(2, shards, -1).sum(-1)
        assert (held.max(1) - held.min(1) <= 1).all()  # every shard has its share of the work
        assert of_kind.k.addressable_shards[0].data.shape[-1] == of_kind.k.shape[-1] // shards


def test_a_scaling_by_length_keeps_the_length_it_is_given():
    config = MODELS["dynamic, longrope"]
    check(config, whole(), length=96)
    tokens, lengths, _ = whole()
    assert np.abs(uncached(config, tokens, lengths, length=96) - uncached(config, tokens, lengths)).max() > 0.01


@pytest.mark.parametrize(
    "kind, slots",
    [
        (layer(position="rope", mask="causal"), 1000),
        (layer(position="rope", mask="causal & window(6)"), 5),  # the sixth is the new token
        (layer(position="rope", mask="causal & (window(6) | sinks(3))"), 3 + 5),
        (layer(position="rope", mask="causal & chunked(7)"), 6),
        (layer(position="rope", mask="causal & window(5000)"), 1000),
        (layer(position="dca(12, 4)", mask="causal"), 1000),
        (layer(position="dca(12, 4)", mask="causal & window(6)"), 5),
        (layer(position="lm_infinite(2, 6)", mask="causal"), 2 + 5),
        (layer(position="streaming(3, 5)", mask="causal"), 3 + 4),
    ],
)
def test_a_cache_holds_no_more_than_is_seen(kind, slots):
    kind = dataclasses.replace(kind, query_scale="none")
    assert caching.slots(kind, 1000, 1) == slots
    assert caching.slots(kind, 1000, 4) == -(-slots // 4) * 4


def test_a_window_layer_has_the_slots_of_its_window():
    cache = check(MODELS["plain, window, window with sinks"], whole())
    assert [of_kind.k.shape for of_kind in cache] == [(2, 2, 2, 8, 48), (1, 2, 2, 8, 5), (1, 2, 2, 8, 7)]


def test_memory_of_a_mask():
    """In every visible pair the key is one of the first tokens, or a recent one."""
    where = masks.TokenInfo(np.arange(40, dtype=np.int32), np.ones(40, np.int32))
    for text in (
        "causal",
        "causal & window(6)",
        "causal & (window(6) | sinks(3))",
        "causal & chunked(7)",
        "causal & sinks(2)",
        "causal & beyond(4) & window(9)",
        "(causal & window(3)) | sinks(2) & causal",
    ):
        mask = masks.parse(text)
        first, recent = mask.memory()
        query, key = np.nonzero(np.asarray(masks.visible(mask, where, where)))
        old = key >= first
        assert (query - key)[old].max(initial=-1) == min(recent, 39) if recent >= 0 else not old.any(), text


def test_masks_under_which_tokens_see_later_ones():
    kind = layer(position="rope", mask="causal | prefix_lm(8)", query_scale="none")
    with pytest.raises(UserError, match=r"model.mask='causal \| prefix_lm\(8\)' lets tokens see later ones"):
        caching.slots(kind, 100, 1)
