"""Attention of a few queries over many keys in plain JAX, as a decoding step needs: each key and value is read once.

The query heads of a key head, and the queries of a row, are the rows of one matmul. Keys are read as [B, K, H, S] and
values as [B, K, S, H], which is how longctx/generation/cache.py stores them, so that nothing is copied there: both
matmuls are [M, K] x [K, N] then, see chunked.py.
"""

import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.attention import bias
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, merge, unsupported
from pallas_kernels.attention.spec import AttentionSpec, accumulator, cap, cap_slope

QUERIES = 16  # the most of a row: scores of all queries and keys exist at once


def why_not(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why this call cannot be: more than QUERIES queries of a row."""
    if x.q.shape[1] > QUERIES:
        return f"takes up to {QUERIES} queries of a row, not {x.q.shape[1]}"
    return unsupported(x)


def forward(x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    s, see, _, _, v = _scores(x, spec)
    s = jnp.where(see, s, -jnp.inf)
    top = s.max(-1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    p = jnp.exp(s - top)  # exp(-inf) = 0 where unseen
    total = p.sum(-1, keepdims=True)
    safe = jnp.where(total > 0, total, 1.0)
    out = _matmul("BKRS,BKSH->BKRH", p.astype(v.dtype), v) / safe
    lse = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)
    T = x.q.shape[1]
    pair = Pair(from_rows(out, T).astype(spec.result_dtype(x.q)), from_rows(lse, T)[..., 0])
    return pair if initial is None else merge(initial, pair)


def backward(x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
    """Gradients of these queries and keys; see reference.backward."""
    s, see, q, k, v = _scores(x, spec)
    dtype, K = q.dtype, x.k.shape[2]
    dout, lse, delta = (rows(y, K) for y in (stats.dout.astype(dtype), stats.lse[..., None], stats.delta[..., None]))
    p = jnp.where(see, jnp.exp(s - jnp.where(jnp.isfinite(lse), lse, 0.0)), 0.0)
    dv = _matmul("BKRS,BKRH->BKSH", p.astype(dtype), dout)
    ds = p * (_matmul("BKRH,BKSH->BKRS", dout, v) - delta) * cap_slope(s, spec.soft_cap)
    dbias = None
    if spec.bias:
        assert x.bias_params is not None
        dbias = bias.params_gradient(spec.bias, x.bias_params, x.q_info, x.k_info, _by_head(ds, x))
    ds = (ds * spec.score_scale(q.shape[-1])).astype(dtype)
    dq = from_rows(_matmul("BKRS,BKHS->BKRH", ds, k), x.q.shape[1])
    dk = _matmul("BKRS,BKRH->BKSH", ds, q)
    return spec.rounded(Grads(dq, dk.swapaxes(1, 2), dv.swapaxes(1, 2), dbias), x)


def _scores(x: Inputs, spec: AttentionSpec):
    """Capped scores BKRS, visibility B1RS, queries BKRH, keys BKHS and values BKSH; rows R are T x G."""
    (B, T, N, H), (S, K) = x.q.shape, x.k.shape[1:3]
    q, k, v = rows(x.q, K), x.k.transpose(0, 2, 3, 1), x.v.swapaxes(1, 2)
    s = _matmul("BKRH,BKHS->BKRS", q, k) * spec.score_scale(H)
    if spec.bias:
        assert x.bias_params is not None
        added = bias.scores(spec.bias, x.bias_params, x.q_info, x.k_info)  # N B T S
        s = s + added.reshape(K, N // K, B, T, S).transpose(2, 0, 3, 1, 4).reshape(s.shape)
    see = jnp.repeat(masks.visible(spec.mask, x.q_info, x.k_info), N // K, axis=1)[:, None]
    return cap(s, spec.soft_cap), see, q, k, v


def _matmul(einsum: str, a, b):
    return jnp.einsum(einsum, a, b, preferred_element_type=accumulator(a))


def rows(x, K: int):
    """BTN. -> BKR., rows R = T x G."""
    B, T, N, H = x.shape
    return x.reshape(B, T, K, N // K, H).swapaxes(1, 2).reshape(B, K, -1, H)


def from_rows(x, T: int):
    """BKR. -> BTN."""
    B, K, R, H = x.shape
    return x.reshape(B, K, T, R // T, H).swapaxes(1, 2).reshape(B, T, -1, H)


def _by_head(x, like: Inputs):
    """BKRS -> NBTS."""
    B, K, R, S = x.shape
    T = like.q.shape[1]
    return x.reshape(B, K, T, R // T, S).transpose(1, 3, 0, 2, 4).reshape(-1, B, T, S)
