"""All-gather: every shard gathers all keys and values once; dK and dV go home by one reduce-scatter.

Bytes leaving each device: (C-1) blocks of K and V forward, and again backward where they were not kept; as many for
dK and dV.
"""

import dataclasses

import jax

from longctx.context_parallel.collectives import gather
from longctx.context_parallel.cost import GATHER, SCATTER, Cost
from longctx.context_parallel.plan import BOTH
from longctx.context_parallel.strategy import KeyBlock, Strategy


@dataclasses.dataclass(frozen=True)
class AllGather(Strategy):
    """All keys over `axis`, with `inside` for the queries of each shard. kv_grads_dtype: in which dK and dV travel."""

    waits = "tiles"

    inside: Strategy
    axis: str | tuple[str, ...]
    kv_grads_dtype: str = "float32"

    @classmethod
    def make(cls, kernel, plan):
        return cls(kernel, BOTH, plan.kv_grads_dtype)

    def exchange(self, x):
        return gather(KeyBlock.of(x), self.axis).put(x)

    def forward(self, x, spec, initial=None):
        return self.inside.forward(x, spec, initial)

    def backward(self, x, spec, stats):
        partial = dataclasses.replace(spec, partial=True)  # the sum over shards is taken in kv_grads_dtype
        grads = self.inside.backward(x, partial, stats)
        dk, dv = (
            jax.lax.psum_scatter(g.astype(self.kv_grads_dtype), self.axis, scatter_dimension=1, tiled=True)
            for g in (grads.dk, grads.dv)
        )
        return spec.rounded(grads._replace(dk=dk, dv=dv), x)

    def cost(self, call):
        others = call.plan.size(self.axis) - 1
        return Cost(
            exchange=call.sent(GATHER, self.axis, others * call.block),
            backward=call.sent(SCATTER, self.axis, others * call.block_grads),
        )
