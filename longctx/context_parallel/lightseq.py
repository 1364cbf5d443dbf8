"""LightSeq's causal schedule (DistFlashAttn, arXiv 2310.03294): shards that have no keys left help those that have.

Over a contiguous layout shard i attends the keys of shards 0..i. In step t every shard i >= t attends the keys of shard
i - t, and each shard i < t, which would be idle, attends its own keys for the queries of shard C - t + i and sends the
result there. Distances t and C - t are thus done together: C/2 steps instead of C - 1, and half as many keys move.
Queries and results move too, so that with few key heads a ring over a zigzag layout, as balanced, sends less.
"""

import dataclasses

import jax
import jax.numpy as jnp

from longctx.context_parallel import hops
from longctx.context_parallel.collectives import send
from longctx.context_parallel.merge import cast
from longctx.context_parallel.strategy import Plan, Strategy
from pallas_kernels.attention.reference import merge


@dataclasses.dataclass(frozen=True)
class LightSeq(Strategy):
    """The schedule over `axis`, with `inside` for each pair of shards. Unrolled: one kernel call for each step."""

    inside: Strategy
    axis: str | tuple[str, ...]
    layout: str | None
    kv_grads_dtype: str = "float32"

    def why_not(self, plan: Plan, mask):
        if plan.layout != "contiguous":
            layout = "not known" if plan.layout is None else repr(plan.layout)
            return (
                f"its schedule balances attention.layout='contiguous' itself, and the layout is {layout}; "
                "'ring' takes any layout"
            )
        if mask.reach()[0] < 0:
            return "its schedule is for causal masks, and this one lets a query see later keys; 'ring' takes any mask"
        return self.inside.why_not(plan, mask)

    def forward(self, q, k, v, tokens, spec, table, before=None):
        dtype, spec = spec.result_dtype(q), dataclasses.replace(spec, partial=True)
        q_own, kv_own = (q, tokens[0]), (k, v, tokens[1])
        result = self.inside.forward(q, k, v, tokens, spec, table, before)
        for step in self._steps(q.shape[1], spec):
            (q, q_tokens), (k, v, k_tokens) = step.deal(q_own, kv_own)
            part = self.inside.forward(q, k, v, (q_tokens, k_tokens), spec, table)
            out, lse = step.to_helped(part)
            result = merge(result, (out, jnp.where(step.is_helped, lse, -jnp.inf)))
            result = merge(result, (part[0], jnp.where(step.helps, -jnp.inf, part[1])))
        return cast(result, dtype)

    def backward(self, q, k, v, tokens, spec, rows, table):
        partial = dataclasses.replace(spec, partial=True)
        q_own, kv_own = (q, tokens[0], rows), (k, v, tokens[1])
        dq, dk, dv, dtable = self.inside.backward(q, k, v, tokens, partial, rows, table)
        for step in self._steps(q.shape[1], spec):
            (q_here, q_tokens, rows_here), (k_here, v_here, k_tokens) = step.deal(q_own, kv_own)
            dq_here, *grads, dtable_here = self.inside.backward(
                q_here, k_here, v_here, (q_tokens, k_tokens), partial, rows_here, table
            )
            dq = dq + step.to_helped(dq_here) + jnp.where(step.helps, 0.0, dq_here)
            sent = step.to_owner([x.astype(self.kv_grads_dtype) for x in grads])
            dk, dv = (
                x + y.astype(x.dtype) + jnp.where(step.helps, z, 0.0)
                for x, y, z in zip((dk, dv), sent, grads, strict=True)
            )
            dtable = jax.tree.map(jnp.add, dtable, dtable_here)
        return *spec.rounded((dq, dk, dv), (q, k, v)), dtable

    def _steps(self, n, spec):
        shards = jax.lax.axis_size(self.axis)
        needed = hops.distances(spec.mask, self.layout, n, shards)
        steps = [(t, t in needed, shards - t in needed and t < shards - t) for t in range(1, shards // 2 + 1)]
        return [_Step(self.axis, shards, *step) for step in steps if any(step[1:])]


@dataclasses.dataclass(frozen=True)
class _Step:
    """Step t of the schedule: who gets whose keys, and who helps whom; either may be needless under a window."""

    axis: str | tuple[str, ...]
    shards: int
    t: int
    keys_move: bool
    help_needed: bool

    @property
    def helps(self):
        """Whether this shard works for another one."""
        return (jax.lax.axis_index(self.axis) < self.t) & self.help_needed

    @property
    def is_helped(self):
        return (jax.lax.axis_index(self.axis) >= self.shards - self.t) & self.help_needed

    def deal(self, queries, keys):
        """The queries and keys whose attention this shard computes; where there are none, keys of no tokens."""
        lent = send(queries, self.axis, [(target, source) for source, target in self._helpers()])
        moved = send(keys, self.axis, self._movers())
        choose = lambda yes, no: jax.tree.map(lambda a, b: jnp.where(self.helps, a, b), yes, no)
        return choose(lent, queries), choose(keys, moved)

    def to_helped(self, tree):
        """What helpers computed, to the owners of the queries; zeros for all others."""
        return send(tree, self.axis, self._helpers())

    def to_owner(self, tree):
        """What was computed with keys that moved, to the owners of the keys; zeros for all others."""
        return send(tree, self.axis, [(target, source) for source, target in self._movers()])

    def _movers(self):
        """(owner of keys, shard that attends them)"""
        return [(i - self.t, i) for i in range(self.t, self.shards)] if self.keys_move else []

    def _helpers(self):
        """(helper, owner of the queries)"""
        return [(i, self.shards - self.t + i) for i in range(self.t)] if self.help_needed else []
