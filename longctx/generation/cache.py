"""The KV cache: for each kind of layer, the keys and values that its tokens may still be asked for.

A slot knows the position of the token that it holds, and masks and position methods ask for no more: so a ring of slots
for a window, slots of their own for sinks, and slots cut over devices need no mask of their own. Token p has slot p,
or, where a window bounds what is seen, slot p modulo as many as the window reaches back; slots are dealt out to the
context shards one by one, so that each has its share of the work at any length.

A step attends two disjoint sets of keys, the cache as it was and the new tokens themselves, of which there may be more
than a window holds; only then do the new ones take their slots. Every shard attends its part of both sets for all
queries, and their pairs (out, lse) merge, as between devices in training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx import meshes
from longctx.config import LayerConfig, ModelConfig, RopeConfig
from longctx.context_parallel.collectives import gather, merge_shards
from longctx.context_parallel.strategy import Local
from longctx.positions.view import View, memory
from pallas_kernels.attention.pair import Inputs, Pair, with_sinks
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo


class Cache(NamedTuple):
    """The keys and values that the layers of one kind keep of the tokens so far.

    Attributes:
      k, v: [layers, B, S, K, H] in the compute dtype. Keys are rotated, if the position method has one rotation of keys
        for all its parts; else they are as projected.
      info: positions and segments of every slot, int32 [B, S]; segment 0 is an empty slot. Slots that differ by key
        head would be [B, S, K], see pair.Inputs.
    """

    k: jax.Array
    v: jax.Array
    info: TokenInfo


def slots(kind: LayerConfig, longest: int, shards: int) -> int:
    """How many tokens of a row the layers of a kind keep, up to a multiple of `shards`.

    longest: tokens that a row may have. Raises UserError for a mask under which tokens see later ones.
    """
    first, recent = memory(kind)
    return -(-min(first + max(recent, 1), longest) // shards) * shards


def empty(config: ModelConfig, rows: int, longest: int) -> list[Cache]:
    """A cache for rows of up to `longest` tokens, one entry for each kind of layer; sharded over the mesh."""

    def of(i, kind):
        size = slots(kind, longest, meshes.context_shards())
        layers = len(range(i, config.layers, len(config.kinds)))
        shape = layers, rows, size, config.kv_heads, config.head_dim
        store = lambda: jnp.zeros(shape, config.dtype, out_sharding=meshes.CACHE)
        numbers = lambda: jnp.zeros((rows, size), jnp.int32, out_sharding=meshes.TOKENS)
        return Cache(store(), store(), TokenInfo(numbers(), numbers()))

    return [of(i, kind) for i, kind in enumerate(config.kinds)]


def extend(model, tokens, info: TokenInfo, cache: list[Cache], rope: RopeConfig | None, length):
    """(hidden states BTD, cache) of more tokens of every row, int32 [B, T], T a multiple of the context shards.

    info: their positions, which go on from those in the cache, and segments: 1, or 0 for none. length: what a RoPE
    scaling takes the rows' to be, int, or each row's, a tuple of them.
    """
    kinds, view_of = model.config.kinds, model.views(rope, length)
    steps = [
        Step(view_of(kind, info.positions), view_of(kind, old.info.positions), info, old, model.attention.kernel)
        for kind, old in zip(kinds, cache, strict=True)
    ]
    x, kept = model.through(tokens, [step.attend for step in steps])
    # all layers at once: a write inside their scan would copy the whole cache
    return x, [
        _written(old, Cache(*new, info), memory(kind)[0]) for kind, old, new in zip(kinds, cache, kept, strict=True)
    ]


class Keys(NamedTuple):
    """A set of keys: of every part of the pairs of tokens, their values, positions and segments."""

    parts: tuple[jax.Array, ...]
    values: jax.Array
    info: TokenInfo


class Step(NamedTuple):
    """The layers of one kind, as they read more tokens.

    Attributes:
      view, old_view: the positions of the new tokens as the layers see them, and of those in the cache.
      info: positions and segments of the new tokens.
      cache: as it was before them.
      kernel: a name in pallas_kernels.attention.api.IMPLEMENTATIONS, or auto.
    """

    view: View
    old_view: View
    info: TokenInfo
    cache: Cache
    kernel: str

    def attend(self, at, q, k, v, *, scale, soft_cap, sinks):
        """An Attend of the kind's layer `at`: (out BTNH, (k, v) for the cache)."""
        k = self.view.to_cache(k)
        old_k, old_v = (jax.lax.dynamic_index_in_dim(x, at, keepdims=False) for x in (self.cache.k, self.cache.v))
        new = Keys(self.view.from_cache(k), v, self.info)
        old = Keys(self.old_view.from_cache(old_k), old_v, self.cache.info)
        specs = [AttentionSpec(mask, scale, self.view.bias, soft_cap, partial=True) for mask in self.view.masks]
        queries = self.view.rotated_queries(q)
        pair = _attended((queries, self.info), (new, old), self.view.bias_params, specs, self.kernel)
        if sinks is not None:
            pair = with_sinks(pair, sinks)
        return pair.out.astype(q.dtype), (k, v)


def _attended(queries, keys: tuple[Keys, ...], bias_params, specs, kernel) -> Pair:
    """The pair, in float32, of queries over disjoint sets of keys, whose slots are sharded like tokens.

    queries: (of every part, their positions and segments).
    """
    specs_of = jax.tree.map(lambda x: meshes.TOKENS if x.ndim == 2 else meshes.HEADS, (queries, keys))
    params_spec = None
    if bias_params is not None:
        params_spec = meshes.HEAD_TABLE
        bias_params = jax.sharding.reshard(jnp.asarray(bias_params, jnp.float32), params_spec)

    def local(queries, keys, bias_params):
        (queries, info), pair = gather(queries, meshes.CONTEXT), None
        for key_set in keys:
            for q, k, spec in zip(queries, key_set.parts, specs, strict=True):
                x = Inputs(q, k, key_set.values, info, key_set.info, bias_params)
                pair = Local(kernel).forward(x, spec, pair)
        return merge_shards(pair, meshes.CONTEXT)

    out_specs = Pair(meshes.HEADS, meshes.LSE)
    return jax.shard_map(local, in_specs=(*specs_of, params_spec), out_specs=out_specs)(queries, keys, bias_params)


def _written(cache: Cache, new: Cache, first: int) -> Cache:
    """The cache with T new tokens, in the form of a Cache whose slots they are, in the slots where they belong."""
    size = cache.k.shape[2]
    specs = Cache(meshes.CACHE, meshes.CACHE, TokenInfo(meshes.TOKENS, meshes.TOKENS))
    axis = lambda x: 2 if x.ndim == 5 else 1  # of the slots: k and v are of all layers

    def local(cache, new):
        new = jax.tree.map(lambda x: jax.lax.all_gather(x, meshes.CONTEXT, axis=axis(x), tiled=True), new)
        shards, slot = jax.lax.axis_size(meshes.CONTEXT), _slot(new.info, first, size)
        local_slot = jnp.where(slot % shards == jax.lax.axis_index(meshes.CONTEXT), slot // shards, size)
        row = jax.lax.broadcasted_iota(jnp.int32, local_slot.shape, 0)
        put = lambda x, y: x.at[(slice(None),) * (axis(x) - 1) + (row, local_slot)].set(y, mode="drop")
        return jax.tree.map(put, cache, new)

    return jax.shard_map(local, in_specs=(specs, specs), out_specs=specs)(cache, new)


def _slot(info: TokenInfo, first: int, size: int):
    """The slot of each of the tokens int32 [B, T], of `size`; `size` itself for padding and for what is not kept.

    Of more tokens than a ring has slots, the last stay: each slot is written once.
    """
    first = min(first, size - 1)
    ring, position = size - first, info.positions
    last = jnp.where(info.segments > 0, position, -1).max(1, keepdims=True)
    kept = (info.segments > 0) & ((position < first) | (position > last - ring))
    return jnp.where(kept, jnp.where(position < first, position, first + (position - first) % ring), size)
