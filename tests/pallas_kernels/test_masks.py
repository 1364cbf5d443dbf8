import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import masks
from pallas_kernels.masks import (
    Beyond,
    Branches,
    Causal,
    Chunked,
    ChunksBefore,
    Full,
    PrefixLM,
    Segments,
    Sinks,
    TokenInfo,
    Window,
)
from tests.helpers import packed

ATOMS = st.one_of(
    st.sampled_from([Full(), Causal(), Segments()]),
    st.builds(Window, st.integers(1, 20)),
    st.builds(Sinks, st.integers(1, 9)),
    st.builds(Branches, st.integers(1, 4)),
    st.builds(PrefixLM, st.integers(1, 20)),
    st.builds(Chunked, st.integers(1, 20)),
    st.builds(Beyond, st.integers(1, 20)),
    st.builds(
        lambda size, low, more: ChunksBefore(size, low, low + more),
        st.integers(1, 9),
        st.integers(0, 3),
        st.sampled_from([0, 1, 2**20]),
    ),
)
MASKS = st.recursive(ATOMS, lambda m: st.one_of(st.builds(masks.And, m, m), st.builds(masks.Or, m, m)), max_leaves=4)


@settings(max_examples=60, deadline=None)
@given(MASKS, st.integers(0, 10**6), st.sampled_from([4, 8]), st.booleans())
def test_relation_never_contradicts_visible(mask, seed, block, shuffled):
    tokens = packed(seed, 1, 32, mean=20, padding=seed % 5)
    if shuffled:  # what a layout does: a mask must not care which token sits where
        order = np.random.default_rng(seed).permutation(32)
        tokens = TokenInfo(*(x[:, order] for x in tokens))
    see = np.asarray(masks.visible(mask, tokens, tokens))[0].reshape(32 // block, block, 32 // block, block)
    ranges = masks.block_ranges(tokens, block)
    relation = np.asarray(masks.relation(mask, ranges, ranges))[0]
    assert not see.any((1, 3))[relation == masks.EMPTY].any()
    assert see.all((1, 3))[relation == masks.FULL].all()


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_no_visible_pair_is_out_of_reach(mask):
    tokens = TokenInfo(jnp.arange(40, dtype=jnp.int32), jnp.ones(40, jnp.int32))
    distance = np.arange(40)[:, None] - np.arange(40)[None]
    low, high = mask.reach()
    seen = distance[np.asarray(masks.visible(mask, tokens, tokens))]
    assert np.all((low <= seen) & (seen <= high))


def test_complements_share_no_pair_and_leave_none_out():
    tokens = TokenInfo(jnp.arange(40, dtype=jnp.int32), jnp.ones(40, jnp.int32))
    for cut in ((Window(9), Beyond(9)), (Chunked(7), ChunksBefore(7, 1, 1), ChunksBefore(7, 2))):
        seen = sum(np.asarray(masks.visible(Causal() & mask, tokens, tokens)).astype(int) for mask in cut)
        np.testing.assert_array_equal(seen, np.tri(40))


def test_branches_see_the_beginning_and_themselves():
    """Two documents, of two branches and of one; with Branches no Segments is added."""
    segments = jnp.array([4, 4, 5, 5, 6, 8, 9], jnp.int32)
    tokens = TokenInfo(jnp.array([0, 1, 2, 3, 2, 0, 1], jnp.int32), segments)
    mask = masks.within_documents(Causal() & Branches(4))
    see = np.asarray(masks.visible(mask, tokens, tokens))
    seen = ["".join(str(int(key)) for key in np.flatnonzero(row)) for row in see]
    assert seen == ["0", "01", "012", "0123", "014", "5", "56"]
    assert mask == Causal() & Branches(4) and masks.within_documents(Causal()) == Causal() & Segments()
    assert masks.branched(Window(3) & (Causal() | Branches(2))) and not masks.branched(Causal() & Segments())


def test_full_is_neutral():
    assert Full() & Window(3) == Window(3) & Full() == Window(3) and Full() & Full() == Full()


@pytest.mark.parametrize(
    "mask, empty, full",
    [
        (Causal(), 28, 28),
        (Causal() & Window(8), 28 + 21, 0),
        (Causal() & Chunked(32), 28 + 16, 12),
        (Full(), 0, 64),
        (Causal() & (Window(8) | Sinks(8)), 28 + 15, 7),
        (Causal() & Beyond(8), 28 + 8, 21),
        (ChunksBefore(16, 1, 1), 64 - 12, 12),
        (ChunksBefore(16, 2), 64 - 12, 12),
        (PrefixLM(24) | Causal(), 28 - 3, 28 + 3 + 3),
    ],
)
def test_relation_is_sharp_on_one_document(mask, empty, full):
    tokens = TokenInfo(jnp.arange(64, dtype=jnp.int32)[None], jnp.ones((1, 64), jnp.int32))
    ranges = masks.block_ranges(tokens, 8)
    relation = np.asarray(masks.relation(mask, ranges, ranges))
    assert ((relation == masks.EMPTY).sum(), (relation == masks.FULL).sum()) == (empty, full)


def test_window_counts_the_token_itself():
    tokens = TokenInfo(jnp.arange(6, dtype=jnp.int32), jnp.ones(6, jnp.int32))
    assert np.asarray(masks.visible(Causal() & Window(3), tokens, tokens)).sum(-1).tolist() == [1, 2, 3, 3, 3, 3]


def test_padding_sees_nothing_under_any_mask():
    tokens = TokenInfo(jnp.zeros(4, jnp.int32), jnp.array([1, 0, 0, 1], jnp.int32))
    see = np.asarray(masks.visible(Full() | Segments(), tokens, tokens))
    assert see.tolist() == [[True, False, False, True], [False] * 4, [False] * 4, [True, False, False, True]]


def test_parse_reads_what_it_says():
    assert masks.parse("causal & (window(128) | sinks(4))") == Causal() & (Window(128) | Sinks(4))
    assert masks.parse("prefix_lm(7) | causal & segments") == PrefixLM(7) | (Causal() & Segments())


@pytest.mark.parametrize(
    "text",
    [
        "casual",
        "window",
        "window(0)",
        "window(-1)",
        "causal()",
        "causal + full",
        "window(1.5)",
        "causal &",
        "__import__('os')",
        "sinks(4, 5)",
    ],
)
def test_parse_refuses_with_the_known_names(text):
    with pytest.raises(ValueError, match="Known: full, causal, window"):
        masks.parse(text)
