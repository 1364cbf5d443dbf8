"""Values from later in the same document, under any layout: labels, and targets of multi-token prediction."""
import jax
import jax.numpy as jnp

from longctx import meshes

WHOLE = jax.sharding.PartitionSpec(*meshes.TOKENS[:1], None)        # [B, T] with T gathered


def ahead(x, positions, segments, offset: int = 1, fill=0):
    """For each token, x of the token `offset` positions later in its document; `fill` where there is none.

    Neighbours are found by segment and position, not by index, so that rows may be packed, cut over `context`, and in
    the order of any layout, which is not asked for. Runs inside or outside jit, under jax.set_mesh or without a mesh.
    Every device sorts the rows it holds a part of: O(T log T), and a few times 4T bytes per row.

    Args:
      x: [B, T], of any dtype: tokens, weights.
      positions, segments: int32 [B, T]. Positions differ within a document, and may skip some; segment 0 is padding.
      offset: at least 1.

    Returns:
      [B, T], laid out and cut as x is.

    Raises:
      ValueError: for an offset below 1.
    """
    if offset < 1:
        raise ValueError(f"offset={offset} must be at least 1, the next token.")
    mesh = jax.sharding.get_abstract_mesh()
    place = (lambda array, spec: array) if mesh.empty else jax.sharding.reshard
    slots = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    segments, positions, x, slots = jax.lax.sort([place(y, WHOLE) for y in (segments, positions, x, slots)], num_keys=2)
    found = jnp.full_like(x, fill)
    for step in range(1, offset + 1):       # positions differ: in this order it is no further away
        segment, position, value = (jnp.roll(y, -step, axis=1) for y in (segments, positions, x))
        found = jnp.where((segment == segments) & (position == positions + offset), value, found)
    found = jnp.where(segments > 0, found, fill)
    return place(jax.lax.sort((slots, found), num_keys=1)[1], meshes.TOKENS)
