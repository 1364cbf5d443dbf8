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
from longctx.context_parallel.strategy import Plan, Strategy
from pallas_kernels.attention.reference import merge
from pallas_kernels.attention.spec import Rows


@dataclasses.dataclass(frozen=True)
class Ulysses(Strategy):
    """Heads for sequence over `axis`; `inside` attends the heads that a shard then holds. kv_heads: before that."""

    inside: Strategy
    axis: str | tuple[str, ...]
    kv_heads: int

    def why_not(self, plan: Plan, mask):
        shards = plan.shards[-1] if self.axis == "context" else plan.shards[0] * plan.shards[1]
        if plan.heads % shards:
            return (
                f"it deals the {plan.heads} query heads of a tensor shard to {shards} context shards, which must "
                "divide them; 'ring' has no such limit, and 'usp' deals heads over mesh.context alone, with a "
                "ring over mesh.context_outer"
            )
        return self.inside.why_not(plan, mask)

    def exchange(self, q, k, v, tokens, table):
        deal = self._deal(q.shape[2])
        if deal is not None:
            k, v = k[:, :, deal], v[:, :, deal]
        if table is not None:
            share = table.shape[0] // jax.lax.axis_size(self.axis)
            table = jax.lax.dynamic_slice_in_dim(table, jax.lax.axis_index(self.axis) * share, share)
        whole = gather(tokens[0], self.axis)  # keys are the same tokens as queries here
        return self.inside.exchange(*(self._to_heads(x) for x in (q, k, v)), (whole, whole), table)

    def forward(self, q, k, v, tokens, spec, table, before=None):
        out, lse = self.inside.forward(q, k, v, tokens, spec, table)
        result = self._to_sequence(out), self._to_sequence(lse)
        return result if before is None else merge(before, result)  # cheaper than to exchange the heads of `before`

    def backward(self, q, k, v, tokens, spec, rows, table):
        deal = self._deal(rows.lse.shape[2])
        rows = Rows(*(self._to_heads(x) for x in rows))
        # copies of a key head are summed in float32
        partial = dataclasses.replace(spec, partial=spec.partial or deal is not None)
        dq, dk, dv, dtable = self.inside.backward(q, k, v, tokens, partial, rows, table)
        dq, dk, dv = (self._to_sequence(x) for x in (dq.astype(spec.result_dtype(q)), dk, dv))
        if deal is not None:
            dk, dv = (jnp.zeros_like(x[:, :, : self.kv_heads]).at[:, :, deal].add(x) for x in (dk, dv))
        if dtable is not None:
            whole = jnp.zeros_like(dtable, shape=(len(dtable) * jax.lax.axis_size(self.axis), dtable.shape[1]))
            start = jax.lax.axis_index(self.axis) * len(dtable)
            dtable = jax.lax.dynamic_update_slice_in_dim(whole, dtable, start, 0)
        return *spec.rounded((dq, dk, dv), (q, k, v)), dtable

    def _deal(self, heads: int) -> np.ndarray | None:
        """The key head in each place of the deal, with as few copies as will do; None where each is dealt once."""
        shards, group = jax.lax.axis_size(self.axis), heads // self.kv_heads
        if self.kv_heads % shards == 0:
            return None
        share = heads // shards  # query heads of a shard
        return np.arange(shards) * share // group if group % share == 0 else np.arange(heads) // group

    def _to_heads(self, x):
        """[B, T/C, heads, ...] -> [B, T, heads/C, ...]"""
        return jax.lax.all_to_all(x, self.axis, split_axis=2, concat_axis=1, tiled=True)

    def _to_sequence(self, x):
        return jax.lax.all_to_all(x, self.axis, split_axis=1, concat_axis=2, tiled=True)
