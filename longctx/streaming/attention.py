"""Attention of one chunk of queries over the keys of all chunks, by the run's context-parallel strategy.

A strategy attends one pair of chunks at a time, each sharded over the context as a whole row would be, and goes on from
the pair (out, lse) of the chunks before. Chunk i is the i-th share of what every shard holds. Keys are kept as
Strategy.exchange gives them, each device's own, and pairs of chunks that a mask leaves EMPTY are not visited. So any
mask, packing and layout is right; with attention.layout="striped(chunk / context shards)" chunk i is the i-th of the
row, and causal masks leave half EMPTY.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import Config
from longctx.context_parallel.api import SCOPE, plan_of, strategy_of
from longctx.context_parallel.collectives import shared
from longctx.context_parallel.plan import CallPlan
from longctx.context_parallel.strategy import KeyBlock, in_turn
from longctx.memory import host
from longctx.memory.host import Stack
from pallas_kernels import masks
from pallas_kernels.attention.pair import Inputs, Pair, RowStats, cast, neutral
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo

EVERY_DEVICE = P(tuple(meshes.AXES))  # a first axis of one part for each device
STACKED_HEADS = P(None, *meshes.HEADS)


class Visits(NamedTuple):
    """The chunks of keys that a chunk of queries sees, in each part of the pairs: the first `count` of `order`."""

    order: jax.Array  # int32 [parts, n]
    count: jax.Array  # int32 [parts]


class Queries(NamedTuple):
    """A chunk of queries.

    Attributes:
      parts: queries BTNH of each part of the pairs.
      info: their positions and segments, [B, T].
      bias_params: [N, D], or None.
      visits: the chunks of keys that they see.
    """

    parts: tuple[jax.Array, ...]
    info: TokenInfo
    bias_params: jax.Array | None
    visits: Visits


class Keys(NamedTuple):
    """Stacks of the keys of every part of the pairs, of the values and of their infos; or one chunk of them."""

    keys: tuple
    values: Stack
    info: TokenInfo

    def chunk(self, part: int, j) -> KeyBlock:
        """The keys of one part in chunk j of this device, out of stacks that have a first axis of devices."""
        read = self.keys[part].read(j), self.values.read(j), host.read(self.info, j)
        return KeyBlock(*jax.tree.map(lambda x: x[0], read))


class KeyGrads(NamedTuple):
    """Stacks of the gradients of keys and values so far, float32 BTKH."""

    keys: tuple[Stack, ...]
    values: Stack


def visits(specs: tuple[AttentionSpec, ...], info: TokenInfo) -> Visits:
    """The Visits of all chunks of queries, [n, parts, ...]; info: [n, B, c]."""
    ranges = jax.tree.map(lambda x: x[..., 0], masks.block_ranges(info, info.positions.shape[-1]))  # n B
    of_q, of_k = jax.tree.map(lambda x: x[:, None], ranges), jax.tree.map(lambda x: x[None], ranges)
    needed = jnp.stack([(~masks.nothing(spec.mask, of_q, of_k)).any(-1) for spec in specs], 1)  # n parts n
    return Visits(jnp.argsort(~needed, axis=-1, stable=True).astype(jnp.int32), needed.sum(-1, dtype=jnp.int32))


def plan_of_chunks(config: Config) -> CallPlan:
    """The CallPlan of the chunks of a run's model: how these lie in a row is not known beforehand."""
    return plan_of(config)._replace(layout=None)


@dataclasses.dataclass(frozen=True)
class ChunkAttention:
    """The attention of one kind of layer. specs: of each part of the pairs, partial."""

    plan: CallPlan
    specs: tuple[AttentionSpec, ...]

    def exchanged(self, keys, values, info: TokenInfo) -> Keys:
        """One chunk as it is kept, from the keys BTKH of each part and the values BTKH."""

        def local(keys, values, info):
            strategy = strategy_of(self.plan)
            queries = jnp.repeat(values, self.plan.heads // self.plan.kv_heads, 2)  # only their shape is looked at
            info = in_turn(self.plan, info, values)
            parts = [strategy.exchange(Inputs(queries, k, values, info, info)) for k in keys]
            kept = Keys(tuple(x.k for x in parts), parts[0].v, parts[0].k_info)
            return jax.tree.map(lambda x: x[None], kept)  # a first axis of one part for each device

        specs = (meshes.HEADS,) * len(keys), meshes.HEADS, meshes.TOKENS
        with jax.named_scope(SCOPE):
            return jax.shard_map(local, in_specs=specs, out_specs=EVERY_DEVICE)(keys, values, info)

    def forward(self, queries: Queries, keys: Keys) -> Pair:
        """The pair of one chunk of queries: out BTNH in their dtype, lse float32 BTN."""

        def local(queries, keys):
            strategy, pair = strategy_of(self.plan), neutral(queries.parts[0])
            for part, (q, spec) in enumerate(zip(queries.parts, self.specs, strict=True)):
                x = self._exchanged_queries(strategy, queries, part, pair.lse if part else q)

                def visit(i, pair, part=part, spec=spec, x=x):
                    block = keys.chunk(part, queries.visits.order[part, i])
                    return strategy.forward(block.put(x), spec, pair)

                pair = jax.lax.fori_loop(0, queries.visits.count[part], visit, pair)
            return cast(pair, queries.parts[0].dtype)

        return self._on_mesh(local, Pair(meshes.HEADS, meshes.LSE))(queries, keys)

    def backward(self, queries: Queries, keys: Keys, stats: RowStats, sums: KeyGrads):
        """((dq float32 of each part, dbias or None) of one chunk of queries, `sums` with its share added)."""

        def local(queries, keys, stats, sums):
            strategy, dqs, params = strategy_of(self.plan), [], queries.bias_params
            dbias = None if params is None else jnp.zeros_like(params)
            for part, (q, spec) in enumerate(zip(queries.parts, self.specs, strict=True)):
                x = self._exchanged_queries(strategy, queries, part, dqs[-1] if part else stats.delta)

                def visit(i, carry, part=part, spec=spec, x=x):
                    of_queries, dk_sums, dv_sums = carry
                    j = queries.visits.order[part, i]
                    grads = strategy.backward(keys.chunk(part, j).put(x), spec, stats)
                    of_queries = jax.tree.map(jnp.add, of_queries, (grads.dq, grads.dbias))
                    return of_queries, dk_sums.add(j, grads.dk), dv_sums.add(j, grads.dv)

                carry = (neutral(q).out, dbias), sums.keys[part], sums.values
                (dq, dbias), dk_sums, dv_sums = jax.lax.fori_loop(0, queries.visits.count[part], visit, carry)
                dqs.append(dq)
                sums = KeyGrads((*sums.keys[:part], dk_sums, *sums.keys[part + 1 :]), dv_sums)
            total = None if params is None else jax.lax.psum(dbias, (*meshes.BATCH, *meshes.CONTEXT))
            return (tuple(dqs), total), sums

        stats_spec = RowStats(meshes.HEADS, meshes.LSE, meshes.LSE)
        out_specs = (meshes.HEADS, meshes.HEAD_TABLE), STACKED_HEADS
        return self._on_mesh(local, out_specs, stats_spec, STACKED_HEADS)(queries, keys, stats, sums)

    def _exchanged_queries(self, strategy, queries: Queries, part: int, on) -> Inputs:
        """The queries of one part as the strategy holds them, after what made the array `on`; keys are to be put."""
        q, info = queries.parts[part], queries.info
        keys = q[:, :, : self.plan.kv_heads]  # only their shape is looked at
        q, info = in_turn(self.plan, (q, info), on)
        return strategy.exchange(Inputs(q, keys, keys, info, info, queries.bias_params))

    def _on_mesh(self, local, out_specs, *more):
        """The function `local` of shards as one of whole arrays: of Queries, Keys, and what `more` are the specs of."""
        specs = Queries(meshes.HEADS, meshes.TOKENS, meshes.HEAD_TABLE, meshes.REPLICATED)

        def typed(queries, *rest):
            with jax.named_scope(SCOPE):
                return local(queries._replace(bias_params=shared(queries.bias_params)), *rest)

        return jax.shard_map(typed, in_specs=(specs, P(None, *EVERY_DEVICE), *more), out_specs=out_specs)
