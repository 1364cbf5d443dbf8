"""TokenRing (arXiv 2412.20501): queries travel round the ring, and each partial result goes straight home.

Keys stay, so that dK and dV never move. More bytes than a ring of keys wherever there are fewer key heads than query
heads, but they use both directions of the links: for MHA on full-duplex links.
"""

import dataclasses

import jax
import jax.numpy as jnp

from longctx.context_parallel import hops
from longctx.context_parallel.collectives import shift
from longctx.context_parallel.cost import PERMUTE, Cost
from longctx.context_parallel.plan import BOTH
from longctx.context_parallel.strategy import Strategy
from pallas_kernels.attention.pair import cast, merge


@dataclasses.dataclass(frozen=True)
class TokenRing(Strategy):
    """Queries round `axis`, with `inside` for each pair of shards. The steps are unrolled: one kernel call for each."""

    waits = "lockstep"

    inside: Strategy
    axis: str | tuple[str, ...]
    layout: str | None = None

    @classmethod
    def make(cls, kernel, plan):
        return cls(kernel, BOTH, plan.layout)

    def forward(self, x, spec, initial=None):
        dtype, spec = spec.result_dtype(x.q), dataclasses.replace(spec, partial=True)
        pair = self.inside.forward(x, spec, initial)
        for distance, (q, q_info) in self._visitors((x.q, x.q_info), spec):
            part = self.inside.forward(x._replace(q=q, q_info=q_info), spec)
            pair = merge(pair, shift(part, self.axis, -distance))
        return cast(pair, dtype)

    def backward(self, x, spec, stats):
        partial = dataclasses.replace(spec, partial=True)
        grads = self.inside.backward(x, partial, stats)
        for distance, (q, q_info, visiting_stats) in self._visitors((x.q, x.q_info, stats), spec):
            part = self.inside.backward(x._replace(q=q, q_info=q_info), partial, visiting_stats)
            home = part._replace(dq=shift(part.dq, self.axis, -distance))
            grads = jax.tree.map(jnp.add, grads, home)
        return spec.rounded(grads, x)

    def cost(self, call):
        """Queries go round as far as their mask reaches, each partial result leaps home."""
        shards, heads = call.plan.size(self.axis), call.plan.heads
        visits = hops.distances(call.mask, self.layout, call.tokens, shards, hops.BACK)
        far, queries, numbers = max(visits, default=0), call.array(heads, call.dtype), call.numbers(heads)
        there, back = queries + call.info, call.array(heads, "float32")
        steps, links = len(visits) + 1, far + min(far, shards - far)
        sent = lambda load: call.sent(PERMUTE, self.axis, len(visits) * load, steps, links)
        return Cost(forward=sent(there + back + numbers), backward=sent(there + queries + 2 * numbers + back))

    def _visitors(self, own, spec):
        """(distance they came, queries) of the shards that may see this one's keys."""
        shards, n = jax.lax.axis_size(self.axis), own[0].shape[1]
        came = 0
        for distance in hops.distances(spec.mask, self.layout, n, shards, hops.BACK):
            own, came = shift(own, self.axis, distance - came), distance
            yield distance, own
