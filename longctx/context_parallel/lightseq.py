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
from longctx.context_parallel.cost import PERMUTE, Cost
from longctx.context_parallel.plan import BOTH
from longctx.context_parallel.strategy import KeyBlock, Strategy
from pallas_kernels.attention.pair import Grads, Pair, cast, merge


@dataclasses.dataclass(frozen=True)
class LightSeq(Strategy):
    """The schedule over `axis`, with `inside` for each pair of shards. Unrolled: one kernel call for each step."""

    inside: Strategy
    axis: str | tuple[str, ...]
    layout: str | None
    kv_grads_dtype: str = "float32"

    @classmethod
    def make(cls, kernel, plan):
        return cls(kernel, BOTH, plan.layout, plan.kv_grads_dtype)

    def why_not(self, x, spec, platform):
        if self.layout != "contiguous":
            layout = "not known" if self.layout is None else repr(self.layout)
            return (
                f"its schedule balances attention.layout='contiguous' itself, and the layout is {layout}; "
                "'ring' takes any layout"
            )
        if spec.mask.reach()[0] < 0:
            return "its schedule is for causal masks, and this one lets a query see later keys; 'ring' takes any mask"
        return self.inside.why_not(x, spec, platform)

    def forward(self, x, spec, initial=None):
        dtype, spec = spec.result_dtype(x.q), dataclasses.replace(spec, partial=True)
        pair = self.inside.forward(x, spec, initial)
        for step in self._steps(x.q.shape[1], spec):
            (q, q_info), keys = step.deal((x.q, x.q_info), KeyBlock.of(x))
            part = self.inside.forward(keys.put(x)._replace(q=q, q_info=q_info), spec)
            out, lse = step.to_helped(part)
            pair = merge(pair, Pair(out, jnp.where(step.is_helped, lse, -jnp.inf)))
            pair = merge(pair, Pair(part.out, jnp.where(step.helps, -jnp.inf, part.lse)))
        return cast(pair, dtype)

    def backward(self, x, spec, stats):
        partial = dataclasses.replace(spec, partial=True)
        dq, dk, dv, dbias = self.inside.backward(x, partial, stats)
        for step in self._steps(x.q.shape[1], spec):
            (q, q_info, dealt_stats), keys = step.deal((x.q, x.q_info, stats), KeyBlock.of(x))
            part = self.inside.backward(keys.put(x)._replace(q=q, q_info=q_info), partial, dealt_stats)
            dq = dq + step.to_helped(part.dq) + jnp.where(step.helps, 0.0, part.dq)
            dkv = part.dk, part.dv
            sent = step.to_owner([g.astype(self.kv_grads_dtype) for g in dkv])
            dk, dv = (
                total + moved.astype(total.dtype) + jnp.where(step.helps, own, 0.0)
                for total, moved, own in zip((dk, dv), sent, dkv, strict=True)
            )
            dbias = jax.tree.map(jnp.add, dbias, part.dbias)
        return spec.rounded(Grads(dq, dk, dv, dbias), x)

    def cost(self, call):
        """Steps 1 to C/2; in each, keys move on, and queries to those that have no keys left. All from their owners."""
        shards, heads = call.plan.size(self.axis), call.plan.heads
        needed = hops.distances(call.mask, self.layout, call.tokens, shards)
        moves = [t for t in range(1, shards // 2 + 1) if t in needed]
        helps = [t for t in range(1, shards // 2 + 1) if shards - t in needed and t < shards - t]
        queries, numbers = call.array(heads, call.dtype), call.numbers(heads)
        lent, back = queries + call.info, call.array(heads, "float32")
        forward = len(moves) * call.block + len(helps) * (lent + back + numbers)
        backward = len(moves) * (call.block + call.block_grads) + len(helps) * (lent + queries + 2 * numbers + back)
        there, and_back = max(moves + helps, default=0), 2 * max(helps, default=0)
        return Cost(
            forward=call.sent(PERMUTE, self.axis, forward, 2 if helps else 1, max(there, and_back)),
            backward=call.sent(PERMUTE, self.axis, backward, 2, 2 * there),
        )

    def _steps(self, n, spec):
        """The steps in which some keys move or some shard helps; n: tokens of a shard."""
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
        """Whether another shard works for this one."""
        return (jax.lax.axis_index(self.axis) >= self.shards - self.t) & self.help_needed

    def deal(self, queries, keys):
        """The queries and keys whose attention this shard computes; where there are none, keys of no tokens."""
        lent = send(queries, self.axis, [(target, source) for source, target in self._helpers()])
        moved = send(keys, self.axis, self._movers())
        choose = lambda yes, no: jax.tree.map(lambda a, b: jnp.where(self.helps, a, b), yes, no)
        return choose(lent, queries), choose(keys, moved)

    def to_helped(self, tree):
        """Results of helpers, sent to the owners of the queries; zeros for all others."""
        return send(tree, self.axis, self._helpers())

    def to_owner(self, tree):
        """Gradients of keys that moved, sent to the owners of the keys; zeros for all others."""
        return send(tree, self.axis, [(target, source) for source, target in self._movers()])

    def _movers(self):
        """[(owner of keys, shard that attends them)]"""
        return [(i - self.t, i) for i in range(self.t, self.shards)] if self.keys_move else []

    def _helpers(self):
        """[(helper, owner of the queries)]"""
        return [(i, self.shards - self.t + i) for i in range(self.t)] if self.help_needed else []
