"""Collectives over a named axis, or several taken as one, applied to every array of a tree."""
import jax
import jax.numpy as jnp


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
