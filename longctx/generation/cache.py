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
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import LayerConfig, ModelConfig, RopeConfig
from longctx.context_parallel.collectives import gather, merge_shards
from longctx.context_parallel.strategy import Local
from longctx.memory import bits
from longctx.positions.view import View, memory
from pallas_kernels.attention.api import IMPLEMENTATIONS
from pallas_kernels.attention.pair import Inputs, Pair, Stack, with_sinks
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo
from pallas_kernels.select import traced_platform


class Cache(NamedTuple):
    """The keys and values that the layers of one kind keep of the tokens so far.

    Attributes:
      k: [layers, B, K, H, S] in the compute dtype, rotated if the position method has one rotation of keys for all its
        parts; else as projected.
      v: [layers, B, K, S, H]. Both are as a decoding step reads them, see pallas_kernels/attention/decode.py;
        either may be bits.Bits.
      info: positions and segments of every slot, int32 [B, S]; segment 0 is an empty slot. Slots that differ by key
        head would be [B, S, K], see pair.Inputs.
    """

    k: jax.Array
    v: jax.Array
    info: TokenInfo


SPECS = Cache(meshes.CACHED_KEYS, meshes.CACHED_VALUES, TokenInfo(meshes.TOKENS, meshes.TOKENS))


def slots(kind: LayerConfig, longest: int, shards: int) -> int:
    """How many tokens of a row the layers of a kind keep, up to a multiple of `shards`.

    longest: tokens that a row may have. Raises UserError for a mask under which tokens see later ones.
    """
    first, recent = memory(kind)
    return -(-min(first + max(recent, 1), longest) // shards) * shards


def lost(config: ModelConfig, longest: int, tokens: int) -> bool:
    """Whether a row of so many tokens has lost some of them, as a window's first make room for later ones.

    longest: see `empty`.
    """
    return any(slots(kind, longest, 1) < tokens for kind in config.kinds)


def empty(config: ModelConfig, rows: int, longest: int) -> list[Cache]:
    """A cache for rows of up to `longest` tokens, one entry for each kind of layer; sharded over the mesh."""

    def of(i, kind):
        size = slots(kind, longest, meshes.context_shards())
        layers = len(range(i, config.layers, len(config.kinds)))
        heads, H, dtype = (layers, rows, config.kv_heads), config.head_dim, config.dtype
        k = jnp.zeros((*heads, H, size), dtype, out_sharding=meshes.CACHED_KEYS)
        v = jnp.zeros((*heads, size, H), dtype, out_sharding=meshes.CACHED_VALUES)
        numbers = lambda: jnp.zeros((rows, size), jnp.int32, out_sharding=meshes.TOKENS)
        return Cache(*bits.of((k, v)), TokenInfo(numbers(), numbers()))

    return [of(i, kind) for i, kind in enumerate(config.kinds)]


def repeated(cache: list[Cache], times: int) -> list[Cache]:
    """The cache, every row so many times in turn."""
    specs = [SPECS] * len(cache)

    def local(cache):
        rows = lambda axis: lambda x: jnp.repeat(x, times, axis)
        return [Cache(*jax.tree.map(rows(1), kind[:2]), jax.tree.map(rows(0), kind.info)) for kind in cache]

    return jax.shard_map(local, in_specs=(specs,), out_specs=specs)(cache)


def extend(model, tokens, info: TokenInfo, cache: list[Cache], rope: RopeConfig | None, length):
    """(hidden states BTD, cache) of more tokens of every row, int32 [B, T], T a multiple of the context shards.

    info: their positions, which go on from those in the cache, and segments: 1, or 0 for none. length: what a RoPE
    scaling takes the rows' to be, int, or each row's, a tuple of them.
    """
    kinds, view_of = model.config.kinds, model.views(rope, length)
    steps = [
        Step(
            view_of(kind, info.positions),
            view_of(kind, old.info.positions),
            (info, old.info),
            (old.k, old.v),
            model.attention.kernel,
        )
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
      infos: positions and segments of the new tokens, and of those in the cache.
      stacks: keys and values in the cache, as they were before the new tokens.
      kernel: a name in pallas_kernels.attention.api.IMPLEMENTATIONS, or auto.
    """

    view: View
    old_view: View
    infos: tuple[TokenInfo, TokenInfo]
    stacks: tuple
    kernel: str

    def attend(self, at, q, k, v, *, scale, soft_cap, sinks):
        """An Attend of the kind's layer `at`: (out BTNH, (k, v) for the cache)."""
        k = self.view.to_cache(k)
        new_info, old_info = self.infos
        new = Keys(self.view.from_cache(k), v, new_info)
        if self.view.one_key and traced_platform() == "tpu":
            old = Stack(*self.stacks, old_info, at)
        else:
            old_k, old_v = _of_layer(self.stacks, at)
            old = Keys(self.old_view.from_cache(old_k), old_v, old_info)
        specs = [AttentionSpec(mask, scale, self.view.bias, soft_cap, partial=True) for mask in self.view.masks]
        queries = self.view.rotated_queries(q)
        pair = _attended((queries, new_info), (new, old), self.view.bias_params, specs, self.kernel)
        if sinks is not None:
            pair = with_sinks(pair, sinks)
        return pair.out.astype(q.dtype), bits.of((k, v))


def _of_layer(stacks, at):
    """Keys and values BSKH of a layer, from those in the cache."""
    k, v = bits.part(stacks, at)  # BKHS, BKSH
    return k.transpose(0, 3, 1, 2), v.swapaxes(1, 2)


def _attended(queries, keys: tuple[Keys | Stack, ...], bias_params, specs, kernel) -> Pair:
    """The pair, in float32, of queries over disjoint sets of keys, whose slots are sharded like tokens.

    queries: (of every part, their positions and segments).
    """
    of_tokens = lambda tree: jax.tree.map(lambda x: meshes.TOKENS if x.ndim == 2 else meshes.HEADS, tree)
    of_stack = Stack(*SPECS, P())
    specs_of = of_tokens(queries), tuple(of_stack if isinstance(x, Stack) else of_tokens(x) for x in keys)
    params_spec = None
    if bias_params is not None:
        params_spec = meshes.HEAD_TABLE
        bias_params = jax.sharding.reshard(jnp.asarray(bias_params, jnp.float32), params_spec)

    def local(queries, keys, bias_params):
        (queries, info), pair = gather(queries, meshes.CONTEXT), None
        for key_set in keys:
            if isinstance(key_set, Stack) and (read := _in_place(kernel, queries[0], info, key_set, specs)):
                for q, spec in zip(queries, specs, strict=True):
                    pair = read(q, info, key_set, spec, pair)
                continue
            if isinstance(key_set, Stack):
                k, v = _of_layer(key_set[:2], key_set.layer)
                key_set = Keys(len(queries) * (k,), v, key_set.info)
            for q, k, spec in zip(queries, key_set.parts, specs, strict=True):
                x = Inputs(q, k, key_set.values, info, key_set.info, bias_params)
                pair = Local(kernel).forward(x, spec, pair)
        return merge_shards(pair, meshes.CONTEXT)

    out_specs = Pair(meshes.HEADS, meshes.LSE)
    return jax.shard_map(local, in_specs=(*specs_of, params_spec), out_specs=out_specs)(queries, keys, bias_params)


def _in_place(kernel: str, q, info: TokenInfo, stack: Stack, specs):
    """tpu.decode.of_layer where that can be and no other kernel is asked for, else None."""
    if kernel not in ("auto", "tpu_decode"):
        return None
    decode = IMPLEMENTATIONS["tpu_decode"]
    reasons = (decode.why_not_of_layer(q, info, stack, spec, "tpu") for spec in specs)
    return None if any(reasons) else decode.of_layer


def _written(cache: Cache, new: Cache, first: int) -> Cache:
    """The cache with T new tokens in the slots where they belong; new: their k and v [layers, B, T, K, H], and info."""
    size, stacks = cache.info.positions.shape[1], P(None, *meshes.HEADS)

    def local(cache, new):
        whole = lambda x, axis: jax.lax.all_gather(x, meshes.CONTEXT, axis=axis, tiled=True)
        info = jax.tree.map(lambda x: whole(x, 1), new.info)
        kept = lambda x: whole(x, 2).transpose(1, 2, 0, 3, 4)  # [B, T, layers, K, H]
        k, v = jax.tree.map(kept, new[:2])
        shards, slot = jax.lax.axis_size(meshes.CONTEXT), _slot(info, first, size)
        slot = jnp.where(slot % shards == jax.lax.axis_index(meshes.CONTEXT), slot // shards, size)
        row = jax.lax.broadcasted_iota(jnp.int32, slot.shape, 0)
        put_key = lambda old, new: old.at[:, row, :, :, slot].set(new, mode="drop")
        put_value = lambda old, new: old.at[:, row, :, slot].set(new, mode="drop")
        put_number = lambda old, new: old.at[row, slot].set(new, mode="drop")
        return Cache(
            jax.tree.map(put_key, cache.k, k),
            jax.tree.map(put_value, cache.v, v),
            jax.tree.map(put_number, cache.info, info),
        )

    new_specs = Cache(stacks, stacks, SPECS.info)
    return jax.shard_map(local, in_specs=(SPECS, new_specs), out_specs=SPECS)(cache, new)


def _slot(info: TokenInfo, first: int, size: int):
    """The slot of each of the tokens int32 [B, T], of `size`; `size` itself for padding and for what is not kept.

    Of more tokens than a ring has slots, the last stay: each slot is written once.
    """
    first = min(first, size - 1)
    ring, position = size - first, info.positions
    last = jnp.where(info.segments > 0, position, -1).max(1, keepdims=True)
    kept = (info.segments > 0) & ((position < first) | (position > last - ring))
    return jnp.where(kept, jnp.where(position < first, position, first + (position - first) % ring), size)
