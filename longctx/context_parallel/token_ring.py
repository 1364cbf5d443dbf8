"""TokenRing (arXiv 2412.20501): queries travel round the ring, and each partial result goes straight home.

Keys stay, so that dK and dV never move. More bytes than a ring of keys wherever there are fewer key heads than query
heads, but they use both directions of the links: for MHA on full-duplex links.
"""

import dataclasses

import jax
import jax.numpy as jnp

from longctx.context_parallel import hops
from longctx.context_parallel.collectives import shift
from longctx.context_parallel.merge import cast
from longctx.context_parallel.strategy import Strategy
from pallas_kernels.attention.reference import merge


@dataclasses.dataclass(frozen=True)
class TokenRing(Strategy):
    """Queries round `axis`, with `inside` for each pair of shards. The steps are unrolled: one kernel call for each."""

    inside: Strategy
    axis: str | tuple[str, ...]
    layout: str | None = None

    def forward(self, q, k, v, tokens, spec, table, before=None):
        dtype, spec = spec.result_dtype(q), dataclasses.replace(spec, partial=True)
        result = self.inside.forward(q, k, v, tokens, spec, table, before)
        for distance, (q_here, q_tokens) in self._visitors((q, tokens[0]), spec):
            part = self.inside.forward(q_here, k, v, (q_tokens, tokens[1]), spec, table)
            result = merge(result, shift(part, self.axis, -distance))
        return cast(result, dtype)

    def backward(self, q, k, v, tokens, spec, rows, table):
        partial = dataclasses.replace(spec, partial=True)
        dq, *stay = self.inside.backward(q, k, v, tokens, partial, rows, table)
        for distance, (q_here, q_tokens, rows_here) in self._visitors((q, tokens[0], rows), spec):
            part, *grads = self.inside.backward(q_here, k, v, (q_tokens, tokens[1]), partial, rows_here, table)
            dq = dq + shift(part, self.axis, -distance)
            stay = jax.tree.map(jnp.add, stay, grads)
        dk, dv, dtable = stay
        return *spec.rounded((dq, dk, dv), (q, k, v)), dtable

    def _visitors(self, own, spec):
        """(distance they came, queries) of the shards that may see this one's keys."""
        shards, n = jax.lax.axis_size(self.axis), own[0].shape[1]
        at = 0
        for distance in hops.distances(spec.mask, self.layout, n, shards, hops.BACK):
            own, at = shift(own, self.axis, distance - at), distance
            yield distance, own
