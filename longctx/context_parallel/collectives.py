"""Collectives over a named axis, or several taken as one, applied to every array of a tree."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

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
    """What a shard sends to and gets from each shard, int32 [C * k]: k slices of axis 0 for each, by their beginnings,
    the sizes of those sent, where the receivers put them, and the sizes of those received."""

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
    there = (to[:, None] <= place[None]) & (place[None] < (to + size)[:, None])  # slice, place
    source = there.argmax(0)
    found = whole[source // (len(to) // shards), begin[source] + place - to[source]]
    return jnp.where(there.any(0).reshape(-1, *[1] * (x.ndim - 1)), found, jnp.zeros_like(x))


def after(tree, on):
    """The tree; on simulated devices, once the array `on` is there.

    XLA's CPU runtime lets what follows a loop begin while the loop still runs, where no data passes between the two.
    Their collectives all have one channel and would meet each other's, and the process dies. So data has to pass. That
    nothing exceeds infinity is not known to the compiler, and it keeps the dependence.
    """
    if traced_platform() != "cpu":
        return tree
    never = on.ravel()[0] > jnp.inf
    return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), tree)
