"""Every shard gathers all keys and values once; dK and dV go home by one reduce-scatter.

Bytes leaving each device: (C-1) blocks of K and V forward, and again backward where they were not kept; as much for
dK and dV.
"""

import dataclasses

import jax

from longctx.context_parallel.collectives import gather
from longctx.context_parallel.strategy import Strategy


@dataclasses.dataclass(frozen=True)
class AllGather(Strategy):
    """All keys over `axis`, with `inside` for the queries of each shard. kv_grads_dtype: in which dK and dV travel."""

    inside: Strategy
    axis: str | tuple[str, ...]
    kv_grads_dtype: str = "float32"

    def exchange(self, q, k, v, tokens, table):
        k, v, k_tokens = gather((k, v, tokens[1]), self.axis)
        return q, k, v, (tokens[0], k_tokens), table

    def forward(self, q, k, v, tokens, spec, table, before=None):
        return self.inside.forward(q, k, v, tokens, spec, table, before)

    def backward(self, q, k, v, tokens, spec, rows, table):
        partial = dataclasses.replace(spec, partial=True)  # the sum over shards is taken in kv_grads_dtype
        dq, dk, dv, dtable = self.inside.backward(q, k, v, tokens, partial, rows, table)
        dk, dv = (
            jax.lax.psum_scatter(x.astype(self.kv_grads_dtype), self.axis, scatter_dimension=1, tiled=True)
            for x in (dk, dv)
        )
        return *spec.rounded((dq, dk, dv), (q, k, v)), dtable
