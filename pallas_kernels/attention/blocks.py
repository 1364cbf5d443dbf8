"""Cutting both sides of an attention into blocks, and which pairs of blocks there is work for.

The tables are computed on the device from the blocks' position and segment ranges, with static shapes, so that every
layout, packed row and ring step skips what its own mask leaves empty, with one compiled body.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.masks import Mask, Tokens


class Schedule(NamedTuple):
    """For each outer block, the inner blocks to visit: FULL ones first, then PARTIAL ones."""

    order: jax.Array  # int32[..., outer, inner]; those past `active` are not to be visited
    full: jax.Array  # int32[..., outer]
    active: jax.Array  # int32[..., outer]: full and partial


def schedule(relation: jax.Array) -> Schedule:
    """The visiting order that a table of block relations [..., outer, inner] asks for."""
    count = lambda chosen: chosen.sum(-1, dtype=jnp.int32)
    order = jnp.argsort(-relation, axis=-1, stable=True).astype(jnp.int32)
    return Schedule(order, count(relation == masks.FULL), count(relation != masks.EMPTY))


def relations(mask: Mask, q_tokens: Tokens, k_tokens: Tokens, q_block: int, k_block: int) -> jax.Array:
    """EMPTY, PARTIAL or FULL of every pair of blocks: tokens [B, T] and [B, S] -> int32 [B, T/q_block, S/k_block]."""
    return masks.relation(mask, masks.block_ranges(q_tokens, q_block), masks.block_ranges(k_tokens, k_block))


def pad(x: jax.Array, axis: int, block: int) -> jax.Array:
    """x with zeros after it along `axis`, to a multiple of `block`."""
    width = -x.shape[axis] % block
    return jnp.pad(x, [(0, width if a == axis else 0) for a in range(x.ndim)]) if width else x


def pad_tokens(tokens: Tokens, block: int) -> Tokens:
    """Padded to whole blocks with segment 0, which no mask lets anyone see."""
    return Tokens(*(pad(x, 1, block) for x in tokens))
