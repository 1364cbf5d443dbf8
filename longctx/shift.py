"""Values from later in a token's document, under any layout: labels, and targets of multi-token prediction."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Shaped

from longctx import meshes
from longctx.errors import as_user_error
from pallas_kernels.arguments import AnyArray, require_integers, require_range, require_whole, said
from pallas_kernels.masks import MOST

WHOLE = jax.sharding.PartitionSpec(*meshes.TOKENS[:1], None)  # [B, T] with T gathered


def ahead(
    x: Shaped[AnyArray, "B T"],
    positions: Integer[AnyArray, "B T"],
    segments: Integer[AnyArray, "B T"],
    offset: int = 1,
    fill: float = 0,
) -> Shaped[Array, "B T"]:
    """For each token, x of the token `offset` positions later in its document; `fill` where there is none.

    Neighbours are found by segment and position, not by index, so that rows may be packed, cut over `context`, and in
    the order of any layout, which is not asked for. Runs inside or outside jit, under jax.set_mesh or without a mesh.
    Every device sorts the rows it holds a part of: O(T log T), and a few times 4T bytes per row.

    Args:
      x: [B, T], of any dtype: tokens, weights.
      positions, segments: int32 [B, T]. Positions differ within a document, and may skip some; segment 0 is padding.
      offset: at least 1. fill: a number that x's dtype has.

    Returns:
      [B, T], laid out and cut as x is.

    Raises:
      UserError: for an offset below 1, arrays of other shapes or dtypes, or a fill that x cannot hold.
    """
    as_user_error(_check, x, positions, segments, offset, fill)
    mesh = jax.sharding.get_abstract_mesh()
    place = (lambda array, spec: array) if mesh.empty else jax.sharding.reshard
    slots = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    segments, positions, x, slots = jax.lax.sort([place(y, WHOLE) for y in (segments, positions, x, slots)], num_keys=2)
    shifted = jnp.full_like(x, fill)
    for step in range(1, offset + 1):  # positions differ: in this order it is no further away
        segment, position, value = (jnp.roll(y, -step, axis=1) for y in (segments, positions, x))
        shifted = jnp.where((segment == segments) & (position == positions + offset), value, shifted)
    shifted = jnp.where(segments > 0, shifted, fill)
    return place(jax.lax.sort((slots, shifted), num_keys=1)[1], meshes.TOKENS)


def _check(x: AnyArray, positions: AnyArray, segments: AnyArray, offset: int, fill: float) -> None:
    require_whole("offset", offset, 1, MOST)
    for name, numbers in (("positions", positions), ("segments", segments)):
        require_integers(name, numbers, "BT")
        if numbers.shape != x.shape:
            raise ValueError(f"{said('x', x)} and {said(name, numbers)}: both must be [B, T].")
    require_range("segments", segments, 0, MOST)
    if jnp.issubdtype(x.dtype, jnp.integer):
        held = jnp.iinfo(x.dtype)
        if not held.min <= fill <= held.max or fill != int(fill):
            raise ValueError(f"fill={fill} must be a whole number from {held.min} to {held.max} for {said('x', x)}.")
