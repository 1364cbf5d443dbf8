"""Rotary position embedding: the tables of one step, and the rotation of queries and keys by them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from longctx.config import RopeConfig
from longctx.errors import UserError, as_user_error
from longctx.positions import api
from longctx.positions.angles import angles, constant_turns, learned_turns
from pallas_kernels.arguments import require_floats, require_integers, require_range, require_whole, said
from pallas_kernels.masks import MOST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """cos and sin of every token's angles, float32 [B, T, pairs], and which dimensions of a head are a pair."""

    cos: jax.Array
    sin: jax.Array
    pairing: str = dataclasses.field(metadata=dict(static=True))


def tables(
    positions: jax.Array,
    config: RopeConfig,
    head_dim: int,
    length: int | tuple[int, ...],
    stretch: jax.Array | None = None,
    divisor: int = 1,
    amplitude: float | None = None,
) -> Table:
    """The table of int32 positions [B, T] in rows of `length` tokens; made once per step and shared by all layers.

    Args:
      length: of all rows, or a tuple of B, each row's own.
      stretch: float32 [B], divides the frequencies of each row.
      divisor: a whole number that divides all frequencies.
      amplitude: what multiplies cos and sin; None is what the scaling asks for.

    Raises:
      UserError: for positions that are no integers, or below 0 where they are known.
    """
    as_user_error(require_integers, "positions", positions, "BT")
    as_user_error(require_range, "positions", positions, 0, 2**31 - 1)
    as_user_error(require_whole, "divisor", divisor, 1, MOST)
    by_row = [api.frequencies(config, head_dim, n) for n in (length if isinstance(length, tuple) else (length,))]
    inv_freq, factor = np.stack([rows for rows, _ in by_row]) / divisor, by_row[0][1]  # no factor depends on a length
    factor = factor if amplitude is None else amplitude
    if stretch is not None:
        rows = jnp.asarray(inv_freq, jnp.float32) / stretch[:, None]
        return learned_table(positions, rows, config.pairing, factor)
    return _table(angles(positions[..., None], constant_turns(inv_freq[:, None])), config.pairing, factor)


def learned_table(positions: jax.Array, frequencies: jax.Array, pairing: str, factor: float = 1.0) -> Table:
    """The table of int32 positions [B, T] for frequencies [B, pairs] or [1, pairs] in radians per token, arrays.

    Differentiable in the frequencies. factor: multiplies cos and sin.
    """
    fixed = jax.lax.stop_gradient(frequencies)
    # integers have no gradient: it comes from a term that is zero
    zero = positions[..., None].astype(jnp.float32) * (frequencies - fixed)[:, None]
    exact = angles(positions[..., None], jax.tree.map(lambda words: words[:, None], learned_turns(fixed)))
    return _table(exact + zero, pairing, factor)


def _table(angle, pairing: str, factor: float) -> Table:
    return Table(jnp.cos(angle) * factor, jnp.sin(angle) * factor, pairing)


def rotate(x: jax.Array, table: Table) -> jax.Array:
    """x BTNH, the first 2 * pairs dimensions of each head rotated by the token's angles, in x's dtype.

    Computed in float32. Raises UserError where x has another shape or dtype, or the table is for other tokens or larger
    heads.
    """
    as_user_error(require_floats, "x", x, "BTNH")
    (rows, length, pairs), (B, T, _, H) = table.cos.shape, x.shape
    if rows not in (1, B) or length != T or 2 * pairs > H:
        raise UserError(f"{said('x', x)} and a table of [B, T, pairs] = {list(table.cos.shape)} do not go together.")
    cos, sin = table.cos[:, :, None], table.sin[:, :, None]  # BT1p
    axis = api.PAIRINGS[table.pairing]
    if pairs == 0:  # NoPE
        return x
    turning, passing = x[..., : 2 * pairs].astype(jnp.float32), x[..., 2 * pairs :]
    shape = (pairs, 2) if axis == -1 else (2, pairs)
    first, second = (jnp.squeeze(part, axis) for part in jnp.split(turning.reshape(*x.shape[:-1], *shape), 2, axis))
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis).reshape(turning.shape)
    return jnp.concatenate([turned.astype(x.dtype), passing], -1)
