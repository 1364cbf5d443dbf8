"""The KV cache: for each kind of layer, the keys and values that its tokens may still be asked for.

A slot knows the position of the token that it holds, and masks and position methods ask for no more: so a ring of slots
for a window, slots of their own for sinks, and slots cut over devices need no mask of their own. Token p has slot p,
or, where a window bounds what is seen, slot p modulo as many as the window reaches back; slots are dealt out to the
context shards one by one, so that each has its share of the work at any length.

A step attends two disjoint sets of keys, the cache as it was and the new tokens themselves, of which there may be more
than a window holds; only then do the new ones take their slots. Every shard attends its part of both sets for all
queries, and what they find is merged by log-sum-exp, as between devices in training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx import meshes
from longctx.config import LayerConfig, ModelConfig, RopeConfig
from longctx.context_parallel.collectives import gather
from longctx.context_parallel.merge import merge_shards, with_sinks
from longctx.context_parallel.strategy import Local
from longctx.positions.view import View, memory
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import Tokens


class Cache(NamedTuple):
    """What the layers of one kind keep of the tokens so far.

    Attributes:
      k, v: [layers, B, S, K, H] in the compute dtype. Keys are rotated, if the position method has one rotation of keys
        for all its parts; else they are as projected.
      tokens: of every slot, int32 [B, S]; segment 0 is an empty slot.
    """

    k: jax.Array
    v: jax.Array
    tokens: Tokens


def slots(kind: LayerConfig, longest: int, shards: int) -> int:
    """How many tokens of a row the layers of a kind keep, up to a multiple of `shards`.

    longest: tokens that a row may have. Raises UserError for a mask under which tokens see later ones.
    """
    first, recent = memory(kind)
    return -(-min(first + max(recent, 1), longest) // shards) * shards


def empty(config: ModelConfig, rows: int, longest: int) -> list[Cache]:
    """A cache for rows of up to `longest` tokens, one entry for each kind of layer; cut over the mesh."""

    def of(i, kind):
        size = slots(kind, longest, meshes.context_shards())
        layers = len(range(i, config.layers, len(config.kinds)))
        shape = layers, rows, size, config.kv_heads, config.head_dim
        store = lambda: jnp.zeros(shape, config.dtype, out_sharding=meshes.CACHE)
        numbers = lambda: jnp.zeros((rows, size), jnp.int32, out_sharding=meshes.TOKENS)
        return Cache(store(), store(), Tokens(numbers(), numbers()))

    return [of(i, kind) for i, kind in enumerate(config.kinds)]


def extend(model, tokens, where: Tokens, cache: list[Cache], rope: RopeConfig | None, length):
    """(hidden states BTD, cache) of more tokens of every row, int32 [B, T], T a multiple of the context shards.

    `where`: their positions, which go on from those in the cache, and segments: 1, or 0 for none. length: what a RoPE
    scaling takes the rows' to be, int, or each row's, a tuple of them.
    """
    kinds, see = model.config.kinds, model.views(rope, length)
    steps = [
        Step(see(kind, where.positions), see(kind, old.tokens.positions), where, old, model.attention.kernel)
        for kind, old in zip(kinds, cache, strict=True)
    ]
    x, kept = model.through(tokens, [step.attend for step in steps])
    # all layers at once: a write inside their scan would copy the whole cache
    return x, [
        _written(old, Cache(*new, where), memory(kind)[0]) for kind, old, new in zip(kinds, cache, kept, strict=True)
    ]


class Step(NamedTuple):
    """The layers of one kind, as they read more tokens.

    Attributes:
      view, old_view: what they see of the positions of the new tokens, and of those in the cache.
      new: the new tokens.
      cache: as it was before them.
      kernel: a name in pallas_kernels.attention.api.IMPLEMENTATIONS, or auto.
    """

    view: View
    old_view: View
    new: Tokens
    cache: Cache
    kernel: str

    def attend(self, at, q, k, v, *, scale, soft_cap, sinks):
        """What Attention asks for in the kind's layer `at`: (out BTNH, (k, v) for the cache)."""
        k = self.view.to_cache(k)
        old_k, old_v = (jax.lax.dynamic_index_in_dim(x, at, keepdims=False) for x in (self.cache.k, self.cache.v))
        keys = ((self.view.from_cache(k), v, self.new), (self.old_view.from_cache(old_k), old_v, self.cache.tokens))
        specs = [AttentionSpec(mask, scale, self.view.bias, soft_cap, partial=True) for mask in self.view.masks]
        out, lse = _attended(self.view.turned_queries(q), self.new, keys, self.view.bias_table, specs, self.kernel)
        if sinks is not None:
            out, _ = with_sinks(out, lse, sinks)
        return out.astype(q.dtype), (k, v)


def _attended(queries, where, keys, table, specs, kernel):
    """(out, lse) in float32. keys: disjoint sets, each (keys of every part, values, tokens), slots cut like tokens."""
    cuts = jax.tree.map(lambda x: meshes.TOKENS if x.ndim == 2 else meshes.HEADS, (queries, where, keys))
    if table is not None:
        table = jax.sharding.reshard(jnp.asarray(table, jnp.float32), meshes.HEAD_TABLE)

    def local(queries, where, keys, table):
        queries, where = gather((queries, where), meshes.CONTEXT)
        found = None
        for parts, v, tokens in keys:
            for q, k, spec in zip(queries, parts, specs, strict=True):
                found = Local(kernel).forward(q, k, v, (where, tokens), spec, table, found)
        return merge_shards(found, meshes.CONTEXT)

    return jax.shard_map(
        local, in_specs=(*cuts, None if table is None else meshes.HEAD_TABLE), out_specs=(meshes.HEADS, meshes.LSE)
    )(queries, where, keys, table)


def _written(cache: Cache, new: Cache, first: int) -> Cache:
    """The cache with T new tokens, in the form of a Cache whose slots they are, in the slots where they belong."""
    size = cache.k.shape[2]
    cuts = Cache(meshes.CACHE, meshes.CACHE, Tokens(meshes.TOKENS, meshes.TOKENS))
    axis = lambda x: 2 if x.ndim == 5 else 1  # of the slots: k and v are of all layers

    def local(cache, new):
        new = jax.tree.map(lambda x: jax.lax.all_gather(x, meshes.CONTEXT, axis=axis(x), tiled=True), new)
        shards, slot = jax.lax.axis_size(meshes.CONTEXT), _slot(new.tokens, first, size)
        mine = jnp.where(slot % shards == jax.lax.axis_index(meshes.CONTEXT), slot // shards, size)
        row = jax.lax.broadcasted_iota(jnp.int32, mine.shape, 0)
        put = lambda x, y: x.at[(slice(None),) * (axis(x) - 1) + (row, mine)].set(y, mode="drop")
        return jax.tree.map(put, cache, new)

    return jax.shard_map(local, in_specs=(cuts, cuts), out_specs=cuts)(cache, new)


def _slot(tokens: Tokens, first: int, size: int):
    """The slot of each of the tokens int32 [B, T], of `size`; `size` itself for padding and for what is not kept.

    Of more tokens than a ring has slots, the last stay: each slot is written once.
    """
    first = min(first, size - 1)
    ring, position = size - first, tokens.positions
    last = jnp.where(tokens.segments > 0, position, -1).max(1, keepdims=True)
    kept = (tokens.segments > 0) & ((position < first) | (position > last - ring))
    return jnp.where(kept, jnp.where(position < first, position, first + (position - first) % ring), size)
