"""Blocks of queries and of keys, and the order in which to visit those pairs of blocks that have work in them.

Relations and schedules are computed on the device from the blocks' position and segment ranges, with static shapes, so
that every layout, packed row and ring step skips what its own mask leaves empty, with one compiled body.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.masks import Mask, TokenInfo


class Schedule(NamedTuple):
    """The inner blocks to visit for each outer block: FULL ones first, then PARTIAL ones.

    Attributes:
      order: int32 [..., outer, inner], numbers of inner blocks; those past `active` are not to be visited.
      full: int32 [..., outer], how many are FULL.
      active: int32 [..., outer], how many are FULL or PARTIAL.
    """

    order: jax.Array
    full: jax.Array
    active: jax.Array


def schedule(relation: jax.Array) -> Schedule:
    """The Schedule for relations int32 [..., outer, inner] of pairs of blocks."""
    count = lambda matches: matches.sum(-1, dtype=jnp.int32)
    order = jnp.argsort(-relation, axis=-1, stable=True).astype(jnp.int32)
    return Schedule(order, count(relation == masks.FULL), count(relation != masks.EMPTY))


def relations(mask: Mask, q_info: TokenInfo, k_info: TokenInfo, q_block: int, k_block: int) -> jax.Array:
    """EMPTY, PARTIAL or FULL of every pair of blocks: infos [B, T] and [B, S] -> int32 [B, T/q_block, S/k_block]."""
    return masks.relation(mask, masks.block_ranges(q_info, q_block), masks.block_ranges(k_info, k_block))


def pad(x: jax.Array, axis: int, block: int) -> jax.Array:
    """x with zeros after it along `axis`, to a multiple of `block`."""
    width = -x.shape[axis] % block
    return jnp.pad(x, [(0, width if a == axis else 0) for a in range(x.ndim)]) if width else x


def pad_info(info: TokenInfo, block: int) -> TokenInfo:
    """Positions and segments [B, T] padded to whole blocks with segment 0, which sees nothing and nothing sees."""
    return TokenInfo(*(pad(x, 1, block) for x in info))
