"""Collectives over a named axis, or several taken as one, applied to every array of a tree."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx import meshes
from pallas_kernels.attention.pair import Pair
from pallas_kernels.select import traced_platform


def shift(tree, axis, distance: int):
    """Every leaf to the shard `distance` further round the ring."""
    shards = jax.lax.axis_size(axis)
    if distance % shards == 0:
        return tree
    return send(tree, axis, [(i, (i + distance) % shards) for i in range(shards)])


def send(tree, axis, pairs):
    """Every leaf along the (source, target) pairs; a shard that receives nothing gets zeros."""
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, pairs) if pairs else jnp.zeros_like(x), tree)


def gather(tree, axis):
    """Every leaf with the shards of its sequence, axis 1, joined."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis, axis=1, tiled=True), tree)


class Slices(NamedTuple):
    """Slices of axis 0 that a shard sends to and gets from each of C shards, k for each; all int32 [C * k].

    Attributes:
      begin, size: of the slices that are sent.
      to: where the receivers put them.
      received: the sizes of the slices that are received.
    """

    begin: jax.Array
    size: jax.Array
    to: jax.Array
    received: jax.Array


def ragged_all_to_all(x, slices: Slices, axis):
    """An array like x of the slices that all shards send to this one, and zeros.

    Simulated devices, which do not have it, gather all of x and pick.
    """
    if traced_platform() != "cpu":
        return jax.lax.ragged_all_to_all(x, jnp.zeros_like(x), *slices, axis_name=axis)
    whole, begin, size, to = (jax.lax.all_gather(y, axis) for y in (x, *slices[:3]))
    shards = len(whole)
    begin, size, to = (y.reshape(shards, shards, -1)[:, jax.lax.axis_index(axis)].ravel() for y in (begin, size, to))
    place = jnp.arange(len(x))
    filled = (to[:, None] <= place[None]) & (place[None] < (to + size)[:, None])  # slice, place
    source = filled.argmax(0)
    picked = whole[source // (len(to) // shards), begin[source] + place - to[source]]
    return jnp.where(filled.any(0).reshape(-1, *[1] * (x.ndim - 1)), picked, jnp.zeros_like(x))


def merge_shards(pair: Pair, axis) -> Pair:
    """The pair over the key sets of all shards of `axis`, which hold the same queries: each gets its part of them."""
    top = jax.lax.pmax(pair.lse, axis)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weight = jnp.exp(pair.lse - top)
    scatter = lambda x: jax.lax.psum_scatter(x, axis, scatter_dimension=1, tiled=True)
    total = scatter(weight)
    safe = jnp.where(total > 0, total, 1.0)
    queries = total.shape[1]
    top = jax.lax.dynamic_slice_in_dim(top, jax.lax.axis_index(axis) * queries, queries, 1)
    out = scatter(pair.out * weight[..., None]) / safe[..., None]
    return Pair(out, jnp.where(total > 0, top + jnp.log(safe), -jnp.inf))


def shared(params):
    """The params [N, D] of a bias, or None, as an array whose gradient is the sum over all shards that share it."""
    return None if params is None else jax.lax.pcast(params, (*meshes.BATCH, *meshes.CONTEXT), to="varying")


def after(tree, on):
    """The tree, once the array `on` is there: on simulated devices alone, elsewhere at once.

    XLA's CPU runtime lets what follows a loop begin while the loop still runs, where no data passes between the two.
    Their collectives all have one channel and would meet each other's, and the process dies. So data has to pass. That
    nothing exceeds infinity is not known to the compiler, and it keeps the dependence.
    """
    if traced_platform() != "cpu":
        return tree
    never = on.ravel()[0] > jnp.inf
    return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), tree)
