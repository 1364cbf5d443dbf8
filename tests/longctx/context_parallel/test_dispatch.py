"""Keys by need: who needs what, the rounds in which it travels, and results on packed rows placed anyhow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import MeshConfig
from longctx.context_parallel import dispatch
from longctx.context_parallel.collectives import Slices, ragged_all_to_all
from pallas_kernels import masks
from pallas_kernels.masks import TokenInfo
from tests.helpers import nightly, one_document, packed, problem, slow
from tests.longctx.context_parallel.cut import check

EXAMPLES = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
T = 512


def documents(lengths, total) -> TokenInfo:
    """A row of documents of these lengths, and padding."""
    lengths = np.array([*lengths, total - sum(lengths)])
    positions = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    segments = np.repeat([*range(1, len(lengths)), 0], lengths)
    return TokenInfo(*(jnp.asarray(x, jnp.int32)[None] for x in (positions, segments)))


def shuffled(tokens: TokenInfo, seed: int, width: int) -> TokenInfo:
    """Pieces of so many tokens, each in its place of some layout."""
    order = np.random.default_rng(seed).permutation(tokens.positions.shape[1] // width)
    return jax.tree.map(lambda x: x.reshape(-1, width)[order].reshape(1, -1), tokens)


@st.composite
def rows(draw):
    """Documents of 16 tokens to the whole row, in any order, and padding or none."""
    lengths = []
    while sum(lengths) < T and (not lengths or draw(st.integers(0, 9))):
        left = T - sum(lengths)
        lengths.append(min(left, draw(st.one_of(st.integers(16, 64), st.integers(16, T)))))
    return shuffled(documents(lengths, T), draw(st.integers(0, 99)), draw(st.sampled_from([T, 32, 4, 1])))


def counts(mask: str, tokens: TokenInfo, shards: int, block: int):
    """[B, C, C]: blocks that each shard needs of each other, as the strategy finds them."""
    return np.asarray(_counts(masks.parse(mask), tokens, shards, block)) * ~np.eye(shards, dtype=bool)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _counts(mask, tokens, shards, block):
    of_shards = jax.tree.map(lambda x: x.reshape(len(x), shards, -1, 2), dispatch.ranges(tokens, block))
    return jax.vmap(lambda of_k: dispatch.needed(mask, of_shards, of_k).sum(-1), 1, 1)(of_shards)


def seen(mask: str, tokens: TokenInfo, shards: int, block: int):
    """The blocks needed, pair of tokens by pair of tokens."""
    pairs = np.asarray(masks.visible(masks.parse(mask), tokens, tokens))
    blocks = pairs.reshape(len(pairs), shards, -1, shards, pairs.shape[1] // shards // block, block).any((2, 5))
    return blocks.sum(-1).swapaxes(1, 2) * ~np.eye(shards, dtype=bool)


# ---- who needs what


@pytest.mark.parametrize(
    "mask",
    [
        "full & segments",
        "causal & segments",
        "causal & window(9) & segments",
        "causal & (window(5) | sinks(2)) & segments",
    ],
)
@pytest.mark.parametrize("lengths", [[64], [16, 32, 16], [8] * 8, [24, 24], [4, 40, 20], [25, 39], [7, 31, 11]])
def test_what_is_needed_is_what_is_seen(lengths, mask):
    """What is needed of blocks with parts of one document or two is known exactly."""
    tokens = documents(lengths, 64)
    for placed in (tokens, shuffled(tokens, 1, 8)):
        np.testing.assert_array_equal(counts(mask, placed, 4, 4), seen(mask, placed, 4, 4))


@settings(max_examples=30, **EXAMPLES)
@given(rows())
def test_no_block_that_is_seen_is_left_out(tokens):
    for mask in ("causal & segments", "causal & window(9) & segments"):
        assert (counts(mask, tokens, 8, 4) >= seen(mask, tokens, 8, 4)).all()


@pytest.mark.parametrize(
    "lengths, mask, sent",
    [
        ([16] * 8, "causal", 0),  # whole documents on every shard
        ([128], "causal", 28 * 4),  # one over all: of every shard before, everything
        ([128], "causal & window(5)", 7),  # and with a window, the last block of the one before
        ([24, 24, 24, 24, 32], "causal", 4 + 2 + 4 + 2 + 4),
        ([], "causal", 0),
    ],
)
def test_blocks_that_are_sent(lengths, mask, sent):
    assert counts(f"{mask} & segments", documents(lengths, 128), 8, 4).sum() == sent


@pytest.mark.parametrize(
    "length, shards", [(1, 4), (16, 4), (50, 3), (1000, 8), (8192, 8), (8192, 128), (8192, 512), (2**17, 8)]
)
def test_blocks_are_small_and_a_round_is_about_what_a_shard_holds(length, shards):
    size = dispatch.block_size(length, shards)
    assert size & (size - 1) == 0 and size <= dispatch.WIDEST_BLOCK
    assert size == 1 or shards * size <= length >= dispatch.LEAST_BLOCKS * size


# ---- rounds


@settings(max_examples=60, **EXAMPLES)
@given(st.sampled_from([2, 7]), st.integers(1, 40), st.integers(0, 99), st.sampled_from([0.0, 0.7, 1.0]))
def test_rounds_send_every_block_once_and_none_is_too_full(C, blocks, seed, sparse):
    rng, B = np.random.default_rng(seed), 2
    some = rng.integers(0, blocks + 1, (B, C, C)) * (rng.random((B, C, C)) >= sparse) * ~np.eye(C, dtype=bool)
    rounds = int(dispatch.rounds_needed(jnp.asarray(some), blocks))
    assert rounds == max(-(-max(some.sum(1).max(), some.sum(2).max()) // blocks), 1) <= C - 1
    done = np.zeros_like(some)
    for i in range(rounds):
        first, size, sent_at, kept_at = map(np.asarray, dispatch.round_of(jnp.asarray(some), i, rounds))
        np.testing.assert_array_equal(first, done)
        assert max((sent_at + size).max(), (kept_at + size).max()) < blocks + C
        for b in range(B):
            for at, parts in [*zip(sent_at[b], size[b], strict=True), *zip(kept_at[b].T, size[b].T, strict=True)]:
                places = np.concatenate([np.arange(a, a + n) for a, n in zip(at, parts, strict=True)])
                np.testing.assert_array_equal(places, np.arange(parts.sum()))
        done += size
    np.testing.assert_array_equal(done, some)


def test_every_round_takes_of_all_that_is_needed():
    need = np.array([[1, 1, 0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1], [0] * 8], bool)
    order = np.asarray(dispatch.in_order(jnp.asarray(need), 3))
    assert order[0, :6].tolist() == [0, 4, 1, 5, 3, 7] and order[1, 0] == 7
    counts = jnp.asarray(need.sum(-1))[None, :, None]
    sizes = [dispatch.round_of(counts, i, 3).size[0, :, 0].tolist() for i in range(3)]
    assert sizes == [[2, 1, 0], [2, 0, 0], [2, 0, 0]]


def test_ragged_all_to_all_is_as_jax_has_it():
    """The example of jax.lax.ragged_all_to_all's documentation, and the same with two slices for each shard."""

    def run(x, *slices):
        with jax.set_mesh(meshes.make(MeshConfig(context=2))):
            cut = P(meshes.CONTEXT)
            f = lambda x, *slices: ragged_all_to_all(x, Slices(*slices), meshes.CONTEXT)
            call = jax.jit(jax.shard_map(f, in_specs=cut, out_specs=cut))
            return call(*(jax.sharding.reshard(jnp.array(y), cut) for y in (x, *slices))).tolist()

    assert run([1, 2, 2, 0, 3, 4, 0, 0], [0, 1, 0, 1], [1, 2, 1, 1], [0, 0, 1, 2], [1, 1, 2, 1]) == [
        1,
        3,
        0,
        0,
        2,
        2,
        4,
        0,
    ]
    assert run(
        [1, 2, 3, 4, 5, 6, 7, 8],
        [0, 3, 1, 2, 3, 0, 1, 2],
        [0, 1, 1, 1, 1, 1, 0, 2],
        [0, 0, 0, 3, 1, 3, 0, 1],
        [0, 1, 1, 1, 1, 1, 0, 2],
    ) == [4, 8, 0, 5, 2, 7, 8, 3]


# ---- results


@settings(max_examples=12, **EXAMPLES)
@given(rows(), st.integers(0, 99))
def test_random_documents_in_random_places(tokens, seed):
    """In one program: what is sent, and in how many rounds, are numbers in it."""
    p = problem(seed, B=1, T=T, H=8, infos=(tokens, tokens))
    check(p, "causal", MeshConfig(context=4), strategy="dispatch", terms=T)


@pytest.mark.parametrize(
    "config, layout",
    [
        (MeshConfig(context_outer=2, context=2), "per_document"),
        *slow((MeshConfig(context=8), "striped(4)")),
        *nightly((MeshConfig(context_outer=2, context=4), "zigzag"), (MeshConfig(context=8), "contiguous")),
    ],
)
def test_rows_of_a_batch_need_different_blocks(config, layout):
    """One document, short ones and only padding, by a window and the first tokens, in bfloat16."""
    some = [one_document(1, 128), packed(1, 1, 128, mean=30), documents([], 128)]
    tokens = jax.tree.map(lambda *x: jnp.concatenate(x), *some)
    p = problem(B=3, T=128, H=8, dtype=jnp.bfloat16, infos=(tokens, tokens))
    check(p, "causal & (window(40) | sinks(4))", config, layout, strategy="dispatch")
