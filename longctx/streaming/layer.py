"""One layer, forward and backward, over the chunks of the residual stream.

A block of longctx/model/block.py is cut where it calls `attend`: `projected` is what comes before (the queries, keys
and values as attention takes them), `rest` what comes after. What a cut does not return is dead code, so that every
block, norm, bias, mixture and position method works as it is. Weights come gathered; chunks are BTD of c tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx import meshes
from longctx.memory import host
from longctx.memory.host import Section, Stack
from longctx.streaming.attention import ChunkAttention, KeyGrads, Keys, Queries, Visits
from pallas_kernels.attention.pair import Pair, row_stats, with_sinks
from pallas_kernels.masks import TokenInfo


class Projected(NamedTuple):
    """The input of attention of one chunk: queries and keys of each part of the pairs, values, a bias' params."""

    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]
    values: jax.Array
    bias_params: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Layer:
    """One kind of layer in one step, as functions of a layer's weights and one chunk.

    Attributes:
      block: (weights) -> one of model.block.BLOCKS.
      view: (shared weights, positions of a chunk) -> positions.view.View.
      attention: by chunks.
      info, visits: of all chunks, [n, ...]: positions and segments, and which keys they see.
      kv_on_host: whether keys and values, and their gradients, are in host memory.
    """

    block: Callable
    view: Callable
    attention: ChunkAttention
    info: TokenInfo
    visits: Visits
    kv_on_host: bool

    @property
    def chunks(self) -> int:
        """How many chunks a row has."""
        return len(self.info.positions)

    def projected(self, weights, shared, x, i) -> Projected:
        """The input of attention of chunk i, from the layer's input x BTD."""
        view = self.view(shared, at(self.info.positions, i))
        params = view.bias_params
        if params is not None:
            params = jax.sharding.reshard(jnp.asarray(params, jnp.float32), meshes.HEAD_TABLE)
        stop = lambda q, k, v, **_: (jnp.zeros_like(q), Projected(*view.rotated(q, k), v, params))
        return self.block(weights)(x, stop)[1]

    def rest(self, weights, x, pair: Pair):
        """The block's result BTD, from the pair of its attention without learned sinks."""

        def attended(q, k, v, sinks, **_):
            return (pair.out if sinks is None else with_sinks(pair, sinks).out), None

        return self.block(weights)(x, attended)[0]

    def queries(self, projected: Projected, i) -> Queries:
        """The queries of chunk i."""
        info, visits = at((self.info, self.visits), i)
        return Queries(projected.queries, info, projected.bias_params, visits)

    def attend(self, projected: Projected, keys: Keys, i) -> Pair:
        """The pair of chunk i."""
        return self.attention.forward(self.queries(projected, i), keys)

    def keys(self, weights, shared, stream: Stack, source) -> Keys:
        """Stacks of all chunks' keys and values; chunk i of the layer's input is part source + i of `stream`."""

        def exchanged(i):
            projected = self.projected(weights, shared, stream.read(source + i), i)
            return self.attention.exchanged(projected.keys, projected.values, at(self.info, i))

        return host.made(self.chunks, exchanged, self.kv_on_host)


def forward(layer: Layer, weights, shared, stream: Stack, source, target, kept: Section | None = None):
    """(stream, kept) with the layer's results in `stream` from part `target` on, and its attention's pairs in `kept`.

    The input is in `stream` from part `source` on, which may be `target`.
    """
    keys = layer.keys(weights, shared, stream, source)

    def chunk(i, carry):
        stream, kept = carry
        x = stream.read(source + i)
        pair = layer.attend(layer.projected(weights, shared, x, i), keys, i)
        return stream.write(target + i, layer.rest(weights, x, pair)), kept and kept.write(i, pair)

    return jax.lax.fori_loop(0, layer.chunks, chunk, (stream, kept))


def backward(layer: Layer, weights, shared, stream: Stack, source, dy: Stack, sums, kept: Section | None = None):
    """(dy, sums): the gradient of the layer's input in place of that of its result, and `sums` with the gradients of
    (weights, shared) added, float32 and sharded as weights are.

    The first loop takes attention's pairs from `kept`, or computes them again, and pulls back all but keys and values;
    when their gradients are complete, a second one pulls these back.
    """
    keys = layer.keys(weights, shared, stream, source)
    like = jax.eval_shape(lambda: layer.projected(weights, shared, stream.read(source), 0))
    key_sums = host.zeros(layer.chunks, KeyGrads(like.keys, like.values), layer.kv_on_host, jnp.float32)

    def queries(i, carry):
        dy, key_sums, sums = carry
        x = stream.read(source + i)

        def of_queries(weights, shared, x):
            return layer.projected(weights, shared, x, i)._replace(keys=None, values=None)

        projected, pull_projected = jax.vjp(of_queries, weights, shared, x)
        pair = kept.read(i) if kept else layer.attend(projected, keys, i)
        _, pull_rest = jax.vjp(layer.rest, weights, x, pair)
        dweights, dx, cotangent = pull_rest(dy.read(i))
        sums = added(sums, (dweights, jax.tree.map(jnp.zeros_like, shared)))
        stats = row_stats(pair, cotangent)
        (dqs, dbias), key_sums = layer.attention.backward(layer.queries(projected, i), keys, stats, key_sums)
        dqs = tuple(g.astype(q.dtype) for g, q in zip(dqs, projected.queries, strict=True))
        dweights, dshared, dx_projected = pull_projected(projected._replace(queries=dqs, bias_params=dbias))
        return dy.write(i, dx + dx_projected), key_sums, added(sums, (dweights, dshared))

    dy, key_sums, sums = jax.lax.fori_loop(0, layer.chunks, queries, (dy, key_sums, sums))

    def keys_and_values(i, carry):
        dy, sums = carry
        of_keys = lambda weights, shared, x: layer.projected(weights, shared, x, i)[1:3]
        projected, pull = jax.vjp(of_keys, weights, shared, stream.read(source + i))
        *grads, dx = pull(jax.tree.map(lambda g, x: g.astype(x.dtype), tuple(host.read(key_sums, i)), projected))
        return dy.add(i, dx), added(sums, tuple(grads))

    return jax.lax.fori_loop(0, layer.chunks, keys_and_values, (dy, sums))


def at(tree, i):
    """Part i of every array of a tree, [n, ...]."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), tree)


def added(sums, grads):
    """`sums`, float32 and sharded as weights are stored, with gradients of gathered weights added."""
    add = lambda total, grad, spec: total + jax.sharding.reshard(grad.astype(jnp.float32), spec)
    return jax.tree.map(add, sums, grads, meshes.specs(sums))


def no_sums(weights):
    """Zeros, float32 and sharded as the weights of a tree are stored: `added` sums gradients in them."""
    zeros = lambda w, spec: jnp.zeros(w.shape, jnp.float32, out_sharding=spec)
    return jax.tree.map(zeros, weights, meshes.specs(weights))
