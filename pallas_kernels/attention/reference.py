"""The definition of attention: dense, in float32 (float64 for such inputs). T x S arrays: for tests and small sizes.

    s = cap(scale * q k^T + bias);  p = exp(s - lse) where visible, else 0;  lse = log sum exp(s);  out = p v

A row that sees no key has out = 0, lse = -inf and no gradient. `backward` takes Rows, which are *global*, so that it
is exact for any cut of the keys or queries, not only when `forward` of the same keys made them. Results over disjoint
keys `merge`; an implementation that can goes on from the first one instead.
"""

import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.attention import bias
from pallas_kernels.attention.spec import AttentionSpec, Rows, accumulator, cap, cap_slope


def why_not(q, k, spec: AttentionSpec, platform: str) -> str | None:
    """None: the definition covers everything, anywhere."""
    return None


def forward(q, k, v, tokens, spec: AttentionSpec, table=None, before=None):
    """(out [B,T,N,H], lse float32 [B,T,N]); q [B,T,N,H], k and v [B,S,K,H], tokens = (of queries, of keys).

    table: [N, D], what spec.bias reads; None where there is no bias.
    before: partial (out, lse) of the same queries over other keys; what is returned, partial too, is over both.
    """
    s, see, _, _, vg = _scores(q, k, v, tokens, spec, table)
    s = jnp.where(see, s, -jnp.inf)
    top = jnp.where(see.any(-1, keepdims=True), s.max(-1, keepdims=True), 0.0)
    p = jnp.exp(s - top)  # exp(-inf) = 0 where unseen
    total = p.sum(-1, keepdims=True)
    out = jnp.einsum("BNTS,BSNH->BTNH", p / jnp.where(total > 0, total, 1.0), vg)
    lse = jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)), -jnp.inf)[..., 0]
    result = out.astype(spec.result_dtype(q)), lse.transpose(0, 2, 1)  # lse BTN
    return result if before is None else merge(before, result)


def merge(a, b):
    """(out, lse) over the union of two disjoint key sets, from the pair of each. out BTNH and lse BTN in float32.

    A pair with lse = -inf is neutral; two of them give out = 0, lse = -inf, never NaN.
    """
    (out_a, lse_a), (out_b, lse_b) = a, b
    top = jnp.maximum(lse_a, lse_b)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weight_a, weight_b = jnp.exp(lse_a - top), jnp.exp(lse_b - top)
    total = weight_a + weight_b
    safe = jnp.where(total > 0, total, 1.0)
    out = out_a * (weight_a / safe)[..., None] + out_b * (weight_b / safe)[..., None]
    return out, jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)


def backward(q, k, v, tokens, spec: AttentionSpec, rows: Rows, table=None):
    """(dq, dk, dv, dtable) of these keys and queries; dtable is float32, or None where there is no bias."""
    s, see, qg, kg, vg = _scores(q, k, v, tokens, spec, table)
    lse = rows.lse.transpose(0, 2, 1)[..., None]  # BNT1
    p = jnp.where(see, jnp.exp(s - jnp.where(jnp.isfinite(lse), lse, 0.0)), 0.0)
    dout = rows.dout.astype(qg.dtype)
    dp = jnp.einsum("BTNH,BSNH->BNTS", dout, vg)
    ds = p * (dp - rows.delta.transpose(0, 2, 1)[..., None])
    ds = ds * cap_slope(s, spec.soft_cap)
    dtable = bias.table_gradient(spec.bias, table, *tokens, jnp.moveaxis(ds, 1, 0)) if spec.bias else None
    ds = ds * spec.score_scale(q.shape[-1])
    dq = jnp.einsum("BNTS,BSNH->BTNH", ds, kg)
    dk = _sum_groups(jnp.einsum("BNTS,BTNH->BSNH", ds, qg), k)
    dv = _sum_groups(jnp.einsum("BNTS,BTNH->BSNH", p, dout), v)
    return *spec.rounded((dq, dk, dv), (q, k, v)), dtable


def _scores(q, k, v, tokens, spec, table):
    """Capped scores and visibility, both BNTS, and q, k, v in the accumulator dtype with K/V repeated to N heads."""
    groups = q.shape[2] // k.shape[2]
    acc = accumulator(q)
    qg, kg, vg = q.astype(acc), *(jnp.repeat(x.astype(acc), groups, axis=2) for x in (k, v))
    s = jnp.einsum("BTNH,BSNH->BNTS", qg, kg) * spec.score_scale(q.shape[-1])
    if spec.bias:
        s = s + jnp.moveaxis(bias.scores(spec.bias, table, *tokens), 0, 1)
    return cap(s, spec.soft_cap), masks.visible(spec.mask, *tokens)[:, None], qg, kg, vg


def _sum_groups(grad, like):
    B, S, N, H = grad.shape
    return grad.reshape(B, S, like.shape[2], -1, H).sum(3)
