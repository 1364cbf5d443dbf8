"""Rotary position embedding: the tables of one step, and the rotation of queries and keys by them."""
import dataclasses

import jax
import jax.numpy as jnp

from longctx.config import RopeConfig
from longctx.positions import api
from longctx.positions.angles import Turns, angles, constant_turns


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """cos and sin of every token's angles, float32 [B, T, pairs], and which dimensions of a head are a pair."""
    cos: jax.Array
    sin: jax.Array
    pairing: str = dataclasses.field(metadata=dict(static=True))


def tables(positions: jax.Array, config: RopeConfig, head_size: int, length: int) -> Table:
    """The table of int32 positions [B, T] in rows of `length` tokens; made once per step and shared by all layers."""
    inv_freq, factor = api.frequencies(config, head_size, length)
    return table(positions, constant_turns(inv_freq[None, None]), factor, config.pairing)


def table(positions: jax.Array, turns: Turns, factor: float, pairing: str) -> Table:
    """The table of int32 positions [B, T] for frequencies that broadcast with [B, T, pairs]."""
    angle = angles(positions[..., None], turns)
    return Table(jnp.cos(angle) * factor, jnp.sin(angle) * factor, pairing)


def rotate(x: jax.Array, table: Table) -> jax.Array:
    """x BTNH, its first 2 * pairs dimensions rotated by its tokens' angles; in float32, returned in x's dtype."""
    cos, sin = table.cos[:, :, None], table.sin[:, :, None]                       # BT1p
    pairs, axis = cos.shape[-1], api.PAIRINGS[table.pairing]
    turning, passing = x[..., :2 * pairs].astype(jnp.float32), x[..., 2 * pairs:]
    shape = (pairs, 2) if axis == -1 else (2, pairs)
    first, second = (jnp.squeeze(part, axis) for part in jnp.split(turning.reshape(*x.shape[:-1], *shape), 2, axis))
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis).reshape(turning.shape)
    return jnp.concatenate([turned.astype(x.dtype), passing], -1)
