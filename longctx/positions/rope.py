"""Rotary position embedding: the tables of one step, and the rotation of queries and keys by them."""
import dataclasses

import jax
import jax.numpy as jnp

from longctx.config import RopeConfig
from longctx.positions import api
from longctx.positions.angles import angles, constant_turns, learned_turns


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """cos and sin of every token's angles, float32 [B, T, pairs], and which dimensions of a head are a pair."""
    cos: jax.Array
    sin: jax.Array
    pairing: str = dataclasses.field(metadata=dict(static=True))


def tables(positions: jax.Array, config: RopeConfig, head_size: int, length: int, stretch=None, divisor=1) -> Table:
    """The table of int32 positions [B, T] in rows of `length` tokens; made once per step and shared by all layers.

    stretch: float32 [B], divides the frequencies of each row. divisor: a whole number that divides all of them.
    """
    inv_freq, factor = api.frequencies(config, head_size, length)
    inv_freq = inv_freq / divisor
    if stretch is not None:
        rows = jnp.asarray(inv_freq, jnp.float32)[None] / stretch[:, None]
        return learned_table(positions, rows, config.pairing, factor)
    return _table(angles(positions[..., None], constant_turns(inv_freq[None, None])), config.pairing, factor)


def learned_table(positions: jax.Array, frequencies: jax.Array, pairing: str, factor: float = 1.0) -> Table:
    """The same for frequencies that are arrays, [B, pairs] or [1, pairs]; differentiable in them."""
    fixed = jax.lax.stop_gradient(frequencies)
    # integers have no gradient: it comes from a term that is zero
    zero = positions[..., None].astype(jnp.float32) * (frequencies - fixed)[:, None]
    exact = angles(positions[..., None], jax.tree.map(lambda words: words[:, None], learned_turns(fixed)))
    return _table(exact + zero, pairing, factor)


def _table(angle, pairing: str, factor: float) -> Table:
    return Table(jnp.cos(angle) * factor, jnp.sin(angle) * factor, pairing)


def rotate(x: jax.Array, table: Table) -> jax.Array:
    """x BTNH, its first 2 * pairs dimensions rotated by its tokens' angles; in float32, returned in x's dtype."""
    cos, sin = table.cos[:, :, None], table.sin[:, :, None]                       # BT1p
    pairs, axis = cos.shape[-1], api.PAIRINGS[table.pairing]
    if pairs == 0:                                                                # NoPE
        return x
    turning, passing = x[..., :2 * pairs].astype(jnp.float32), x[..., 2 * pairs:]
    shape = (pairs, 2) if axis == -1 else (2, pairs)
    first, second = (jnp.squeeze(part, axis) for part in jnp.split(turning.reshape(*x.shape[:-1], *shape), 2, axis))
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis).reshape(turning.shape)
    return jnp.concatenate([turned.astype(x.dtype), passing], -1)
