"""A function of tokens, computed tile by tile, so that the intermediate results of one tile exist at a time."""

import functools

import jax
import jax.numpy as jnp


def tiled(function, weights, x, rest, tiles: int, needed=None):
    """function(weights, x, *rest) of one device's tokens, in `tiles` tiles; differentiable in weights and x.

    The backward computes each tile again, and sums the weights' gradients in float32.

    Args:
      function: takes arrays [M, ...] of any number of tokens M and returns a tree of such arrays, which vary over the
        same mesh axes as x.
      x: [M, ...]; rest: a tuple of arrays [M, ...] of integers.
      needed: int32, the number of leading tokens whose results are needed; tiles behind them are skipped and give 0.
        Default: all.
    """
    count = len(x)
    size = -(-count // tiles)
    pad = lambda a: jnp.pad(a, [(0, size * tiles - count)] + [(0, 0)] * (a.ndim - 1)) if count % tiles else a
    split = lambda a: pad(a).reshape(tiles, size, *a.shape[1:])
    live = tiles if needed is None else -(-needed // size)
    result = _over_tiles(function, weights, *jax.tree.map(split, (x, rest)), live)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], result)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_tiles(function, weights, xs, rests, live):
    """The results of the first `live` tiles, stacked [tiles, ...], and zeros for the others."""

    def tile(i, results):
        return _written(results, function(weights, xs[i], *_at(rests, i)), i)

    like = jax.eval_shape(function, weights, xs[0], *_at(rests, 0))
    zeros = jax.tree.map(lambda a: jnp.zeros_like(xs, a.dtype, shape=(len(xs), *a.shape)), like)
    return jax.lax.fori_loop(0, live, tile, zeros)


def _forward(function, weights, xs, rests, live):
    return _over_tiles(function, weights, xs, rests, live), (weights, xs, rests, live)


def _backward(function, saved, cotangents):
    weights, xs, rests, live = saved

    def tile(i, carry):
        sums, dxs = carry
        _, pull = jax.vjp(lambda weights, x: function(weights, x, *_at(rests, i)), weights, xs[i])
        dweights, dx = pull(_at(cotangents, i))
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, dweights), _written(dxs, dx, i)

    wide = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.promote_types(w.dtype, jnp.float32)), weights)
    sums, dxs = jax.lax.fori_loop(0, live, tile, (wide, jnp.zeros_like(xs)))
    return jax.tree.map(lambda a, w: a.astype(w.dtype), sums, weights), dxs, None, None


_over_tiles.defvjp(_forward, _backward)


def _at(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


def _written(stack, part, i):
    return jax.tree.map(lambda a, b: jax.lax.dynamic_update_index_in_dim(a, b, i, 0), stack, part)
