"""Ring Self-Attention (arXiv 2105.13120), the first of its kind, kept for comparison: dense, in two passes.

Keys go round first and leave each shard the scores of its queries against the whole sequence, T/C x T numbers a head;
after the softmax the values go round. Memory grows with the square of the length: ring attention removed that.
"""

import dataclasses

import jax
import jax.numpy as jnp

from longctx.context_parallel.collectives import shift
from longctx.context_parallel.cost import PERMUTE, SCATTER, Cost
from longctx.context_parallel.plan import BOTH
from longctx.context_parallel.strategy import Strategy
from pallas_kernels import masks
from pallas_kernels.attention import bias
from pallas_kernels.attention.pair import Grads, Pair, merge
from pallas_kernels.attention.spec import accumulator, cap, cap_slope


@dataclasses.dataclass(frozen=True)
class RingSelfAttention(Strategy):
    """Both passes over `axis`. There is no kernel in it: the scores are arrays."""

    axis: str | tuple[str, ...]

    @classmethod
    def make(cls, kernel, plan):
        return cls(BOTH)

    def forward(self, x, spec, initial=None):
        s, see = self._scores(x, spec)  # C BNTS
        top = jnp.where(see, s, -jnp.inf).max((0, -1))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        p = jnp.where(see, jnp.exp(s - top[None, ..., None]), 0.0)
        total = p.sum((0, -1))
        safe = jnp.where(total > 0, total, 1.0)
        weighted = lambda v, p: jnp.einsum("BNTS,BSNH->BTNH", p, _heads(v, x.q))
        out = self._round(x.v, weighted, p / safe[None, ..., None])
        lse = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)
        pair = Pair(out.sum(0).astype(spec.result_dtype(x.q)), lse.transpose(0, 2, 1))
        return pair if initial is None else merge(initial, pair)

    def backward(self, x, spec, stats):
        s, see = self._scores(x, spec)
        stats = jax.tree.map(lambda y: y.astype(s.dtype), stats)
        lse, delta = (y.transpose(0, 2, 1)[None, ..., None] for y in (stats.lse, stats.delta))
        p = jnp.where(see, jnp.exp(s - jnp.where(jnp.isfinite(lse), lse, 0.0)), 0.0)
        dp = self._round(x.v, lambda v, p: jnp.einsum("BTNH,BSNH->BNTS", stats.dout, _heads(v, x.q)), p)
        ds = p * (dp - delta) * cap_slope(s, spec.soft_cap)
        dbias = self._dbias(ds, x, spec) if spec.bias else None
        ds = ds * spec.score_scale(x.q.shape[-1])
        dq = self._round(x.k, lambda k, ds: jnp.einsum("BNTS,BSNH->BTNH", ds, _heads(k, x.q)), ds).sum(0)
        dk = self._home(jnp.einsum("CBNTS,BTNH->CBSNH", ds, x.q.astype(s.dtype)), x.k)
        dv = self._home(jnp.einsum("CBNTS,BTNH->CBSNH", p, stats.dout), x.v)
        return spec.rounded(Grads(dq, dk, dv, dbias), x)

    def cost(self, call):
        """Whole rounds, of C hops: keys for the scores, then values; back keys, values, keys, and dense dK, dV."""
        shards, plan = call.plan.size(self.axis), call.plan
        values, keys = call.array(plan.kv_heads, call.dtype), call.array(plan.kv_heads, call.dtype) + call.info
        rounds = lambda load, count: call.sent(PERMUTE, self.axis, shards * load, count * shards, count * shards)
        sums = call.sent(SCATTER, self.axis, 2 * (shards - 1) * call.array(plan.heads, "float32"))
        # back, keys for the scores and values for dP go round at the same time
        return Cost(forward=rounds(keys + values, 2), backward=(*rounds(keys + 2 * values, 2), *sums))

    def _scores(self, x, spec):
        """Capped scores and visibility of this shard's queries against those of 0, 1, ... hops away: both [C, BNTS]."""

        def block(block, _):
            k, k_info = block
            s = jnp.einsum("BTNH,BSNH->BNTS", x.q.astype(accumulator(x.q)), _heads(k, x.q))
            s = s * spec.score_scale(x.q.shape[-1])
            if spec.bias:
                s = s + jnp.moveaxis(bias.scores(spec.bias, x.bias_params, x.q_info, k_info), 0, 1)
            see = masks.visible(spec.mask, x.q_info, k_info)[:, None]
            return cap(s, spec.soft_cap), jnp.broadcast_to(see, s.shape)

        return self._round((x.k, x.k_info), block, jnp.arange(jax.lax.axis_size(self.axis)))

    def _dbias(self, ds, x, spec):
        """The gradient [N, D] of the bias params, from that of the scores [C, BNTS]."""

        def of_block(k_info, ds):
            return bias.params_gradient(spec.bias, x.bias_params, x.q_info, k_info, jnp.moveaxis(ds, 1, 0))

        return self._round(x.k_info, of_block, ds).sum(0)

    def _round(self, block, function, xs):
        """function(block from i hops away, xs[i]) for every i, stacked."""
        hop = lambda block, x: (shift(block, self.axis, 1), function(block, x))
        return jax.lax.scan(hop, block, xs)[1]

    def _home(self, grads, like):
        """The gradients [C, B, S, N, H] of all blocks, each summed over the shards at its own, heads as in `like`."""
        index, shards = jax.lax.axis_index(self.axis), jax.lax.axis_size(self.axis)
        by_shard = grads[(index - jnp.arange(shards)) % shards]
        total = jax.lax.psum_scatter(by_shard, self.axis, scatter_dimension=0)
        return total.reshape(*like.shape[:2], like.shape[2], -1, like.shape[3]).sum(3)


def _heads(x, like):
    """Keys or values repeated to the query heads of `like`, in its accumulator's dtype."""
    return jnp.repeat(x.astype(accumulator(like)), like.shape[2] // x.shape[2], axis=2)
