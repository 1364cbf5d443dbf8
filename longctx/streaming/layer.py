"""One layer, forward and backward, over the chunks of the residual stream.

A block of longctx/model/block.py is cut where it calls `attend`: `turned` is what comes before (the queries, keys and
values as attention takes them), `rest` what comes after. What a cut does not return is dead code, so that every block,
norm, bias, mixture and position method works as it is. Weights come gathered; chunks are BTD of c tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx import meshes
from longctx.context_parallel.merge import with_sinks
from longctx.memory import host
from longctx.memory.host import Section, Stack
from longctx.streaming.attention import ChunkAttention, Sums, Visits
from pallas_kernels.attention.spec import rows
from pallas_kernels.masks import Tokens


class Seen(NamedTuple):
    """What attention is given of one chunk: queries and keys of each part of the pairs, values, a bias' table."""

    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]
    values: jax.Array
    table: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Layer:
    """One kind of layer in one step, as functions of a layer's weights and one chunk.

    Attributes:
      block: (weights) -> one of model.block.BLOCKS.
      view: (shared weights, positions of a chunk) -> positions.view.View.
      attention: by chunks.
      tokens, visits: of all chunks [n, ...]: where the tokens are, and which keys they see.
      kv_on_host: where keys and values, and their gradients, are.
    """

    block: Callable
    view: Callable
    attention: ChunkAttention
    tokens: Tokens
    visits: Visits
    kv_on_host: bool

    @property
    def chunks(self) -> int:
        return len(self.tokens.positions)

    def turned(self, weights, shared, x, i) -> Seen:
        view = self.view(shared, at(self.tokens.positions, i))
        table = view.bias_table
        if table is not None:
            table = jax.sharding.reshard(jnp.asarray(table, jnp.float32), meshes.HEAD_TABLE)
        see = lambda q, k, v, **_: (jnp.zeros_like(q), Seen(*view.turned(q, k), v, table))
        return self.block(weights)(x, see)[1]

    def rest(self, weights, x, result):
        """The block's result, from that of its attention: (out BTNH, lse BTN) without learned sinks."""

        def attended(q, k, v, sinks, **_):
            return (result[0] if sinks is None else with_sinks(*result, sinks)[0]), None

        return self.block(weights)(x, attended)[0]

    def attend(self, seen: Seen, held, i):
        where, visits = at((self.tokens, self.visits), i)
        return self.attention.forward(seen.queries, seen.table, where, held, visits)

    def keys(self, weights, shared, stream: Stack, source):
        """Stacks of all chunks' keys and values; chunk i of the layer's input is part source + i of `stream`."""

        def exchanged(i):
            seen = self.turned(weights, shared, stream.read(source + i), i)
            return self.attention.exchanged(seen.keys, seen.values, at(self.tokens, i))

        return host.made(self.chunks, exchanged, self.kv_on_host)


def forward(layer: Layer, weights, shared, stream: Stack, source, target, kept: Section | None = None):
    """(stream, kept): the layer's results in the parts of `stream` from `target` on, for input from `source` on, which
    may be one; and those of its attention, (out, lse), in `kept`."""
    held = layer.keys(weights, shared, stream, source)

    def chunk(i, carry):
        stream, kept = carry
        x = stream.read(source + i)
        result = layer.attend(layer.turned(weights, shared, x, i), held, i)
        return stream.write(target + i, layer.rest(weights, x, result)), kept and kept.write(i, result)

    return jax.lax.fori_loop(0, layer.chunks, chunk, (stream, kept))


def backward(layer: Layer, weights, shared, stream: Stack, source, dy: Stack, sums, kept: Section | None = None):
    """(dy, sums): the gradient of the layer's input in place of that of its result, and `sums` with those of
    (weights, shared) added, float32 and cut as weights are.

    The first loop takes attention's results from `kept`, or computes them again, and pulls back all but keys and
    values; when their gradients are complete, a second one pulls these back.
    """
    held = layer.keys(weights, shared, stream, source)
    like = jax.eval_shape(lambda: layer.turned(weights, shared, stream.read(source), 0))
    key_sums = host.zeros(layer.chunks, Sums(like.keys, like.values), layer.kv_on_host, jnp.float32)

    def queries(i, carry):
        dy, key_sums, sums = carry
        x = stream.read(source + i)
        of_queries = lambda weights, shared, x: layer.turned(weights, shared, x, i)._replace(keys=None, values=None)
        seen, pull_seen = jax.vjp(of_queries, weights, shared, x)
        result = kept.read(i) if kept else layer.attend(seen, held, i)
        _, pull_rest = jax.vjp(layer.rest, weights, x, result)
        dweights, dx, cotangent = pull_rest(dy.read(i))
        sums = added(sums, (dweights, jax.tree.map(jnp.zeros_like, shared)))
        where, visits = at((layer.tokens, layer.visits), i)
        dq, dtable, key_sums = layer.attention.backward(
            seen.queries, seen.table, where, held, visits, rows(result, cotangent), key_sums
        )
        dqs = tuple(g.astype(q.dtype) for g, q in zip(dq, seen.queries, strict=True))
        dweights, dshared, dx_seen = pull_seen(seen._replace(queries=dqs, table=dtable))
        return dy.write(i, dx + dx_seen), key_sums, added(sums, (dweights, dshared))

    dy, key_sums, sums = jax.lax.fori_loop(0, layer.chunks, queries, (dy, key_sums, sums))

    def keys(i, carry):
        dy, sums = carry
        of_keys = lambda weights, shared, x: layer.turned(weights, shared, x, i)[1:3]
        seen, pull = jax.vjp(of_keys, weights, shared, stream.read(source + i))
        *grads, dx = pull(jax.tree.map(lambda g, x: g.astype(x.dtype), tuple(host.read(key_sums, i)), seen))
        return dy.add(i, dx), added(sums, tuple(grads))

    return jax.lax.fori_loop(0, layer.chunks, keys, (dy, sums))


def at(tree, i):
    """Part i of every array of a tree, [n, ...]."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), tree)


def added(sums, grads):
    """`sums`, float32 and cut as weights are stored, with gradients of gathered weights added."""
    add = lambda total, grad, spec: total + jax.sharding.reshard(grad.astype(jnp.float32), spec)
    return jax.tree.map(add, sums, grads, meshes.specs(sums))


def no_sums(weights):
    """Zeros, float32 and cut as the weights of a tree are stored: `added` sums gradients in them."""
    zeros = lambda w, spec: jnp.zeros(w.shape, jnp.float32, out_sharding=spec)
    return jax.tree.map(zeros, weights, meshes.specs(weights))
