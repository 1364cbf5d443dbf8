"""Ring Self-Attention (arXiv 2105.13120), the first of its kind, kept for comparison: dense, in two passes.

Keys go round first and leave each shard the scores of its queries against the whole sequence, T/C x T numbers a head;
after the softmax the values go round. Memory grows with the square of the length: ring attention removed that.
"""

import dataclasses

import jax
import jax.numpy as jnp

from longctx.context_parallel.collectives import shift
from longctx.context_parallel.strategy import Strategy
from pallas_kernels import masks
from pallas_kernels.attention import bias
from pallas_kernels.attention.reference import merge
from pallas_kernels.attention.spec import accumulator, cap, cap_slope


@dataclasses.dataclass(frozen=True)
class RingSelfAttention(Strategy):
    """Both passes over `axis`. There is no kernel in it: the scores are arrays."""

    axis: str | tuple[str, ...]

    def forward(self, q, k, v, tokens, spec, table, before=None):
        s, see = self._scores(q, k, tokens, spec, table)  # C BNTS
        top = jnp.where(see, s, -jnp.inf).max((0, -1))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        p = jnp.where(see, jnp.exp(s - top[None, ..., None]), 0.0)
        total = p.sum((0, -1))
        safe = jnp.where(total > 0, total, 1.0)
        out = self._round(v, lambda v, p: jnp.einsum("BNTS,BSNH->BTNH", p, _heads(v, q)), p / safe[None, ..., None])
        lse = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)
        result = out.sum(0).astype(spec.result_dtype(q)), lse.transpose(0, 2, 1)
        return result if before is None else merge(before, result)

    def backward(self, q, k, v, tokens, spec, rows, table):
        s, see = self._scores(q, k, tokens, spec, table)
        rows = jax.tree.map(lambda x: x.astype(s.dtype), rows)
        lse, delta = (x.transpose(0, 2, 1)[None, ..., None] for x in (rows.lse, rows.delta))
        p = jnp.where(see, jnp.exp(s - jnp.where(jnp.isfinite(lse), lse, 0.0)), 0.0)
        dp = self._round(v, lambda v, p: jnp.einsum("BTNH,BSNH->BNTS", rows.dout, _heads(v, q)), p)
        ds = p * (dp - delta) * cap_slope(s, spec.soft_cap)
        dtable = self._table_gradient(ds, tokens, spec, table) if spec.bias else None
        ds = ds * spec.score_scale(q.shape[-1])
        dq = self._round(k, lambda k, ds: jnp.einsum("BNTS,BSNH->BTNH", ds, _heads(k, q)), ds).sum(0)
        dk = self._home(jnp.einsum("CBNTS,BTNH->CBSNH", ds, q.astype(s.dtype)), k)
        dv = self._home(jnp.einsum("CBNTS,BTNH->CBSNH", p, rows.dout), v)
        return *spec.rounded((dq, dk, dv), (q, k, v)), dtable

    def _scores(self, q, k, tokens, spec, table):
        """Capped scores and visibility of this shard's queries against those of 0, 1, ... hops away: both [C, BNTS]."""

        def block(block, _):
            k, k_tokens = block
            s = jnp.einsum("BTNH,BSNH->BNTS", q.astype(accumulator(q)), _heads(k, q)) * spec.score_scale(q.shape[-1])
            if spec.bias:
                s = s + jnp.moveaxis(bias.scores(spec.bias, table, tokens[0], k_tokens), 0, 1)
            see = masks.visible(spec.mask, tokens[0], k_tokens)[:, None]
            return cap(s, spec.soft_cap), jnp.broadcast_to(see, s.shape)

        return self._round((k, tokens[1]), block, jnp.arange(jax.lax.axis_size(self.axis)))

    def _table_gradient(self, ds, tokens, spec, table):
        here = lambda k_tokens, ds: bias.table_gradient(spec.bias, table, tokens[0], k_tokens, jnp.moveaxis(ds, 1, 0))
        return self._round(tokens[1], here, ds).sum(0)

    def _round(self, block, function, xs):
        """function(block from i hops away, xs[i]) for every i, stacked."""
        hop = lambda block, x: (shift(block, self.axis, 1), function(block, x))
        return jax.lax.scan(hop, block, xs)[1]

    def _home(self, grads, like):
        """The gradients [C, B, S, N, H] of all blocks, each summed over the shards at its own, heads as in `like`."""
        mine, shards = jax.lax.axis_index(self.axis), jax.lax.axis_size(self.axis)
        by_shard = grads[(mine - jnp.arange(shards)) % shards]
        total = jax.lax.psum_scatter(by_shard, self.axis, scatter_dimension=0)
        return total.reshape(*like.shape[:2], like.shape[2], -1, like.shape[3]).sum(3)


def _heads(x, like):
    """Keys or values repeated to the query heads of `like`, in its accumulator's dtype."""
    return jnp.repeat(x.astype(accumulator(like)), like.shape[2] // x.shape[2], axis=2)
