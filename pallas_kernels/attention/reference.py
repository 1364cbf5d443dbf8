"""The definition of attention: dense, in float32 (float64 for such inputs). T x S arrays: for tests and small sizes.

    s = cap(scale * q k^T + bias);  p = exp(s - lse) where visible, else 0;  lse = log sum exp(s);  out = p v

A row that sees no key has out = 0, lse = -inf and no gradient. `backward` takes RowStats, which are *global*: it is
exact for any cut of the keys or queries, not only when `forward` of the same keys made them. See pair.py.
"""

import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.attention import bias
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, merge, unsupported
from pallas_kernels.attention.spec import AttentionSpec, accumulator, cap, cap_slope


def why_not(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why this call cannot be: the definition covers everything, anywhere, that is supported at all."""
    return unsupported(x)


def forward(x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]) of queries over keys.

    initial: the partial pair of the same queries over other keys; the result, partial too, is over both.
    """
    s, see, _, _, vg = _scores(x, spec)
    s = jnp.where(see, s, -jnp.inf)
    top = jnp.where(see.any(-1, keepdims=True), s.max(-1, keepdims=True), 0.0)
    p = jnp.exp(s - top)  # exp(-inf) = 0 where unseen
    total = p.sum(-1, keepdims=True)
    out = jnp.einsum("BNTS,BSNH->BTNH", p / jnp.where(total > 0, total, 1.0), vg)
    lse = jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)), -jnp.inf)[..., 0]
    result = Pair(out.astype(spec.result_dtype(x.q)), lse.transpose(0, 2, 1))  # lse BTN
    return result if initial is None else merge(initial, result)


def backward(x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
    """Gradients of these queries and keys; dbias is float32, or None where there is no bias."""
    s, see, qg, kg, vg = _scores(x, spec)
    lse = stats.lse.transpose(0, 2, 1)[..., None]  # BNT1
    p = jnp.where(see, jnp.exp(s - jnp.where(jnp.isfinite(lse), lse, 0.0)), 0.0)
    dout = stats.dout.astype(qg.dtype)
    dp = jnp.einsum("BTNH,BSNH->BNTS", dout, vg)
    ds = p * (dp - stats.delta.transpose(0, 2, 1)[..., None])
    ds = ds * cap_slope(s, spec.soft_cap)
    dbias = None
    if spec.bias:
        dbias = bias.params_gradient(spec.bias, x.bias_params, x.q_info, x.k_info, jnp.moveaxis(ds, 1, 0))
    ds = ds * spec.score_scale(x.q.shape[-1])
    dq = jnp.einsum("BNTS,BSNH->BTNH", ds, kg)
    dk = _sum_groups(jnp.einsum("BNTS,BTNH->BSNH", ds, qg), x.k)
    dv = _sum_groups(jnp.einsum("BNTS,BTNH->BSNH", p, dout), x.v)
    return spec.rounded(Grads(dq, dk, dv, dbias), x)


def _scores(x: Inputs, spec):
    """Capped scores and visibility, both BNTS, and q, k, v in the accumulator dtype with K/V repeated to N heads."""
    groups = x.q.shape[2] // x.k.shape[2]
    acc = accumulator(x.q)
    qg, kg, vg = x.q.astype(acc), *(jnp.repeat(y.astype(acc), groups, axis=2) for y in (x.k, x.v))
    s = jnp.einsum("BTNH,BSNH->BNTS", qg, kg) * spec.score_scale(x.q.shape[-1])
    if spec.bias:
        s = s + jnp.moveaxis(bias.scores(spec.bias, x.bias_params, x.q_info, x.k_info), 0, 1)
    return cap(s, spec.soft_cap), masks.visible(spec.mask, x.q_info, x.k_info)[:, None], qg, kg, vg


def _sum_groups(grad, like):
    """The gradient [B, S, N, H] summed over the query heads of each key head of `like`: [B, S, K, H]."""
    B, S, N, H = grad.shape
    return grad.reshape(B, S, like.shape[2], -1, H).sum(3)
