"""The flat list of block pairs that a kernel walks, and what it needs to know of each: one int32 per pair.

The list is computed on the device from the blocks' position and segment ranges, with static shapes, so that every
layout, packed row and ring step skips what its own mask leaves empty, with one compiled kernel.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.attention import blocks
from pallas_kernels.masks import EMPTY, FULL, PARTIAL, Mask, Ranges, TokenInfo

LOWER = 3                        # EMPTY in every sub-block above the pair's own diagonal, FULL in every one below
_BITS = 13                       # of a block's number: 8192 blocks on either side
MOST = 1 << _BITS                # blocks on a side
_ABSENT = 2**31 - 1              # sorts after every entry


class Pairs(NamedTuple):
    """The pairs with work in them, by outer block; an outer block without any is there once, as EMPTY.

    Rows of the batch that have fewer than `steps` repeat their last pair as EMPTY, neither first nor last: a kernel
    that fetches by it has no more to do.

    Attributes:
      block_list: int32 [B, outer * inner]; the functions below read its entries.
      steps: int32 [], the entries of the row that has most.
    """
    block_list: jax.Array
    steps: jax.Array


def outer(entry: jax.Array) -> jax.Array:
    """The number of the outer block."""
    return entry >> _BITS + 4


def inner(entry: jax.Array) -> jax.Array:
    """The number of the inner block."""
    return (entry >> 4) & (1 << _BITS) - 1


def kind(entry: jax.Array) -> jax.Array:
    """EMPTY, PARTIAL, FULL or LOWER."""
    return (entry >> 2) & 3


def first(entry: jax.Array) -> jax.Array:
    """Whether this is the first pair of its outer block."""
    return (entry & 2) != 0


def last(entry: jax.Array) -> jax.Array:
    """Whether this is the last pair of its outer block."""
    return (entry & 1) != 0


def pairs(kinds: jax.Array) -> Pairs:
    """The list of pairs for kinds [B, outer, inner]. Raises NotImplementedError for more blocks than it can number."""
    B, rows, columns = kinds.shape
    if max(rows, columns) > MOST:
        raise NotImplementedError(f"{rows} x {columns} blocks: the list of pairs counts to {MOST}")
    number = lambda axis: jax.lax.broadcasted_iota(jnp.int32, kinds.shape, axis)
    alone = (kinds == EMPTY).all(-1, keepdims=True) & (number(2) == 0)
    listed = (kinds != EMPTY) | alone
    rank = listed.cumsum(-1, dtype=jnp.int32)
    entry = (number(1) << _BITS + 4) | (number(2) << 4) | (kinds << 2) | ((rank == 1) << 1) | (rank == rank[..., -1:])
    ordered = jnp.sort(jnp.where(listed, entry, _ABSENT).reshape(B, -1), axis=-1)
    count = listed.sum((1, 2), dtype=jnp.int32)
    idle = jnp.take_along_axis(ordered, count[:, None] - 1, axis=1) & ~15
    place = jax.lax.broadcasted_iota(jnp.int32, ordered.shape, 1)
    return Pairs(jnp.where(place < count[:, None], ordered, idle), count.max())


def kinds(mask: Mask, q_info: TokenInfo, k_info: TokenInfo, q_block: int, k_block: int, chunk: int) -> jax.Array:
    """EMPTY, PARTIAL, FULL or LOWER of every pair of blocks: infos [B, T], [B, S] -> int32 [B, T/q_block, S/k_block].

    LOWER is known of square blocks, cut into sub-blocks of `chunk`. It may be said too rarely, never wrongly.
    """
    relation = blocks.relations(mask, q_info, k_info, q_block, k_block)
    if q_block != k_block or q_block == chunk:
        return relation
    of_queries, of_keys = masks.block_ranges(q_info, chunk), masks.block_ranges(k_info, chunk)
    cut = lambda x, size: x.reshape(*x.shape[:-1], -1, size // chunk)
    lower = relation == PARTIAL
    for c in range(q_block // chunk - 1):
        part = lambda ranges, size, at: Ranges(
            *(reduce(cut(x, size)[..., at], -1) for reduce, x in zip(_UNION, ranges, strict=True)))
        before, after = slice(c, c + 1), slice(c + 1, None)
        lower &= masks.relation(mask, part(of_queries, q_block, before), part(of_keys, k_block, after)) == EMPTY
        lower &= masks.relation(mask, part(of_queries, q_block, after), part(of_keys, k_block, before)) == FULL
    return jnp.where(lower, LOWER, relation)


_UNION = Ranges(jnp.min, jnp.max, jnp.min, jnp.max, jnp.all)
