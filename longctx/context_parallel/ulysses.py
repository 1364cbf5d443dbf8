"""Ulysses (arXiv 2309.14509): an all-to-all trades a share of the sequence for a share of the heads, and back.

Between the two every shard holds some heads of the whole sequence and attends them with `inside`: the kernel itself,
or a ring over a second mesh axis (USP, arXiv 2405.07719). Where the shards do not divide the key heads, each of these
is sent to the shards whose query heads need it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from longctx.context_parallel.collectives import gather
from longctx.context_parallel.cost import GATHER, TO_ALL, Cost
from longctx.context_parallel.plan import BOTH, INNER, OUTER
from longctx.context_parallel.ring import Ring
from longctx.context_parallel.strategy import Strategy
from pallas_kernels.attention.pair import Inputs, Pair, RowStats, merge


@dataclasses.dataclass(frozen=True)
class Ulysses(Strategy):
    """Heads for sequence over `axis` of that many shards; `inside` attends the heads that a shard then holds.

    kv_heads: of each shard before the exchange.
    """

    waits = ""

    inside: Strategy
    axis: str | tuple[str, ...]
    shards: int
    kv_heads: int

    @classmethod
    def make(cls, kernel, plan):
        return cls(kernel, BOTH, plan.size(BOTH), plan.kv_heads)

    def why_not(self, x, spec, platform):
        heads = x.q.shape[2]
        if heads % self.shards:
            return (
                f"it deals the {heads} query heads of a tensor shard to {self.shards} context shards, which must "
                "divide them; 'ring' has no such limit, and 'usp' deals heads over mesh.context alone, with a "
                "ring over mesh.context_outer"
            )
        return self.inside.why_not(x, spec, platform)

    def exchange(self, x):
        deal, (k, v), params = self._deal(x.q.shape[2]), (x.k, x.v), x.bias_params
        if deal is not None:
            k, v = k[:, :, deal], v[:, :, deal]
        if params is not None:
            share = params.shape[0] // self.shards
            params = jax.lax.dynamic_slice_in_dim(params, jax.lax.axis_index(self.axis) * share, share)
        whole = gather(x.q_info, self.axis)  # keys are the same tokens as queries here
        return self.inside.exchange(Inputs(*(self._to_heads(y) for y in (x.q, k, v)), whole, whole, params))

    def forward(self, x, spec, initial=None):
        pair = self.inside.forward(x, spec)
        pair = Pair(*(self._to_sequence(y) for y in pair))
        return pair if initial is None else merge(initial, pair)  # cheaper than to exchange the heads of `initial`

    def backward(self, x, spec, stats):
        deal = self._deal(stats.lse.shape[2])
        stats = RowStats(*(self._to_heads(y) for y in stats))
        # copies of a key head are summed in float32
        partial = dataclasses.replace(spec, partial=spec.partial or deal is not None)
        grads = self.inside.backward(x, partial, stats)
        dq = grads.dq.astype(spec.result_dtype(x.q))
        dq, dk, dv = (self._to_sequence(g) for g in (dq, grads.dk, grads.dv))
        if deal is not None:
            dk, dv = (jnp.zeros_like(g[:, :, : self.kv_heads]).at[:, :, deal].add(g) for g in (dk, dv))
        dbias = grads.dbias
        if dbias is not None:
            whole = jnp.zeros_like(dbias, shape=(len(dbias) * self.shards, dbias.shape[1]))
            start = jax.lax.axis_index(self.axis) * len(dbias)
            dbias = jax.lax.dynamic_update_slice_in_dim(whole, dbias, start, 0)
        return spec.rounded(grads._replace(dq=dq, dk=dk, dv=dv, dbias=dbias), x)

    def cost(self, call):
        plan, shards = call.plan, self.shards
        keys = plan.kv_heads if (deal := self._deal(plan.heads)) is None else len(deal)
        # copies of a key head are summed in float32
        kv_grads_dtype = call.result_dtype if keys == plan.kv_heads else "float32"
        queries, results = (call.array(plan.heads, dtype) for dtype in (call.dtype, call.result_dtype))
        numbers = call.numbers(plan.heads)
        to_all = lambda load, steps=1: call.sent(TO_ALL, self.axis, (shards - 1) / shards * load, steps)
        each = dataclasses.replace(
            call, tokens=call.tokens * shards, plan=plan._replace(heads=plan.heads // shards, kv_heads=keys // shards)
        )
        return self.inside.cost(each) + Cost(
            exchange=(
                *to_all(queries + 2 * call.array(keys, call.dtype)),
                *call.sent(GATHER, self.axis, (shards - 1) * call.info),
            ),
            forward=to_all(results + numbers),
            backward=to_all(queries + 2 * numbers + results + 2 * call.array(keys, kv_grads_dtype), 2),
        )

    def _deal(self, heads: int) -> np.ndarray | None:
        """The key head in each place of the deal, with as few copies as will do; None where each is dealt once."""
        group = heads // self.kv_heads
        if self.kv_heads % self.shards == 0:
            return None
        share = heads // self.shards  # query heads of a shard
        return np.arange(self.shards) * share // group if group % share == 0 else np.arange(heads) // group

    def _to_heads(self, x):
        """[B, T/C, heads, ...] -> [B, T, heads/C, ...]"""
        return jax.lax.all_to_all(x, self.axis, split_axis=2, concat_axis=1, tiled=True)

    def _to_sequence(self, x):
        """[B, T, heads/C, ...] -> [B, T/C, heads, ...]"""
        return jax.lax.all_to_all(x, self.axis, split_axis=1, concat_axis=2, tiled=True)


@dataclasses.dataclass(frozen=True)
class USP(Ulysses):
    """Ulysses over the inner context axis, a ring over the outer one (arXiv 2405.07719)."""

    waits = "lockstep"
    levels = 2

    @classmethod
    def make(cls, kernel, plan):
        inside = Ring(kernel, OUTER, kv_grads_dtype=plan.kv_grads_dtype)
        return cls(inside, INNER, plan.size(INNER), plan.kv_heads)
