"""Attention of one chunk of queries over the keys of all chunks, by the run's context-parallel strategy.

A strategy attends one pair of chunks at a time, each cut over the context shards as a whole row would be, and goes on
from the result (out, lse) of the pairs before it. Chunk i is the i-th share of what every shard holds. Keys are kept as
Strategy.exchange gives them, of each device its own, and pairs that a mask leaves EMPTY are not visited. So any mask,
packing and layout is right; with attention.layout="striped(chunk / context shards)" chunk i is the i-th of the row, and
causal masks leave half EMPTY.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import Config
from longctx.context_parallel.api import SCOPE, STRATEGIES, plan_of
from longctx.context_parallel.merge import cast, neutral
from longctx.context_parallel.strategy import Local, Plan, in_turn
from longctx.memory import host
from longctx.memory.host import Stack
from pallas_kernels import masks
from pallas_kernels.attention.spec import AttentionSpec, Rows
from pallas_kernels.masks import Tokens

EVERY_DEVICE = P(tuple(meshes.AXES))  # a first axis of one part for each device
STACKED_HEADS = P(None, *meshes.HEADS)


class Keys(NamedTuple):
    """Stacks of the keys of every part of the pairs, of the values and of where they are; or one chunk of them."""

    keys: tuple
    values: Stack
    tokens: Tokens


class Sums(NamedTuple):
    """Stacks of the gradients so far, float32 BTKH."""

    keys: tuple[Stack, ...]
    values: Stack


class Visits(NamedTuple):
    """Which chunks of keys a chunk of queries sees, in each part of the pairs: the first `count` of `order`."""

    order: jax.Array  # int32 [parts, n]
    count: jax.Array  # int32 [parts]


def visits(specs: tuple[AttentionSpec, ...], tokens: Tokens) -> Visits:
    """Those of all chunks of queries, [n, parts, ...]; tokens: [n, B, c]."""
    ranges = jax.tree.map(lambda x: x[..., 0], masks.block_ranges(tokens, tokens.positions.shape[-1]))  # n B
    of_q, of_k = jax.tree.map(lambda x: x[:, None], ranges), jax.tree.map(lambda x: x[None], ranges)
    needed = jnp.stack([(~masks.nothing(spec.mask, of_q, of_k)).any(-1) for spec in specs], 1)  # n parts n
    return Visits(jnp.argsort(~needed, axis=-1, stable=True).astype(jnp.int32), needed.sum(-1, dtype=jnp.int32))


def plan_of_chunks(config: Config) -> Plan:
    """How the model of a run cuts the attention of chunks: where these lie in a row is not known beforehand."""
    return plan_of(config)._replace(layout=None)


@dataclasses.dataclass(frozen=True)
class ChunkAttention:
    """The attention of one kind of layer. specs: of each part of the pairs, partial."""

    plan: Plan
    specs: tuple[AttentionSpec, ...]

    def exchanged(self, keys, values, tokens: Tokens) -> Keys:
        """The keys BTKH of each part and the values BTKH of one chunk, as they are kept."""

        def local(keys, values, tokens):
            queries = jnp.repeat(values, self.plan.heads // self.plan.kv_heads, 2)  # only their shape is looked at
            tokens = in_turn(self.plan, tokens, values)
            held = [self._strategy().exchange(queries, k, values, (tokens, tokens), None) for k in keys]
            return _of_device(Keys(tuple(part[1] for part in held), held[0][2], held[0][3][1]))

        cuts = (meshes.HEADS,) * len(keys), meshes.HEADS, meshes.TOKENS
        with jax.named_scope(SCOPE):
            return jax.shard_map(local, in_specs=cuts, out_specs=EVERY_DEVICE)(keys, values, tokens)

    def forward(self, queries, table, tokens: Tokens, held: Keys, visits: Visits):
        """(out BTNH in the queries' dtype, lse float32 BTN) of one chunk of queries: of each part, BTNH."""

        def local(queries, table, tokens, held, visits):
            strategy, result = self._strategy(), neutral(queries[0])
            for part, q in enumerate(queries):
                q, q_tokens, here = self._exchanged_query(q, table, tokens, result[1] if part else q)

                def pair(visit, result, part=part, q=q, q_tokens=q_tokens, here=here):
                    k, v, k_tokens = _chunk(held, part, visits.order[part, visit])
                    return strategy.forward(q, k, v, (q_tokens, k_tokens), self.specs[part], here, result)

                result = jax.lax.fori_loop(0, visits.count[part], pair, result)
            return cast(result, queries[0].dtype)

        return self._on_mesh(local, (meshes.HEADS, meshes.LSE))(queries, table, tokens, held, visits)

    def backward(self, queries, table, tokens: Tokens, held: Keys, visits: Visits, rows: Rows, sums: Sums):
        """(dq float32 of each part, dtable or None) of one chunk of queries, and `sums` with its share added."""

        def local(queries, table, tokens, held, visits, rows, sums):
            strategy, dqs = self._strategy(), []
            dtable = None if table is None else jnp.zeros_like(table)
            for part, q in enumerate(queries):
                q, q_tokens, here = self._exchanged_query(q, table, tokens, dqs[-1] if part else rows.delta)

                def pair(visit, carry, part=part, q=q, q_tokens=q_tokens, here=here):
                    dq, dtable, dk_sums, dv_sums = carry
                    j = visits.order[part, visit]
                    k, v, k_tokens = _chunk(held, part, j)
                    more_dq, dk, dv, more_dtable = strategy.backward(
                        q, k, v, (q_tokens, k_tokens), self.specs[part], rows, here
                    )
                    here_and = jax.tree.map(jnp.add, (dq, dtable), (more_dq, more_dtable))
                    return *here_and, dk_sums.add(j, dk), dv_sums.add(j, dv)

                carry = neutral(queries[part])[0], dtable, sums.keys[part], sums.values
                dq, dtable, dk_sums, dv_sums = jax.lax.fori_loop(0, visits.count[part], pair, carry)
                dqs.append(dq)
                sums = Sums((*sums.keys[:part], dk_sums, *sums.keys[part + 1 :]), dv_sums)
            total = None if table is None else jax.lax.psum(dtable, (*meshes.BATCH, *meshes.CONTEXT))
            return tuple(dqs), total, sums

        rows_cut, out = Rows(meshes.HEADS, meshes.LSE, meshes.LSE), (meshes.HEADS, meshes.HEAD_TABLE, STACKED_HEADS)
        return self._on_mesh(local, out, rows_cut, STACKED_HEADS)(queries, table, tokens, held, visits, rows, sums)

    def _strategy(self):
        return STRATEGIES[self.plan.strategy](Local(self.plan.kernel), self.plan)

    def _exchanged_query(self, q, table, tokens, on):
        """(q, tokens, table) of one part, as the strategy holds them, after what made the array `on`."""
        keys = q[:, :, : self.plan.kv_heads]  # only their shape is looked at
        q, tokens = in_turn(self.plan, (q, tokens), on)
        q, _, _, (q_tokens, _), here = self._strategy().exchange(q, keys, keys, (tokens, tokens), table)
        return q, q_tokens, here

    def _on_mesh(self, local, out_specs, *more):
        stacked = P(None, *EVERY_DEVICE)
        cuts = meshes.HEADS, meshes.HEAD_TABLE, meshes.TOKENS, stacked, meshes.REPLICATED, *more

        def typed(queries, table, *rest):
            if table is not None:  # its gradient is the sum over everything that shares it
                table = jax.lax.pcast(table, (*meshes.BATCH, *meshes.CONTEXT), to="varying")
            with jax.named_scope(SCOPE):
                return local(queries, table, *rest)

        return jax.shard_map(typed, in_specs=cuts, out_specs=out_specs)


def _chunk(held: Keys, part: int, j):
    """(k, v, tokens) of chunk j, of this device."""
    return jax.tree.map(lambda x: x[0], (held.keys[part].read(j), held.values.read(j), host.read(held.tokens, j)))


def _of_device(tree):
    """A first axis of one part for each device."""
    return jax.tree.map(lambda x: x[None], tree)
