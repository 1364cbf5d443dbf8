"""Bodies of the Pallas Mosaic kernels that tpu.py calls: one grid step each, one pair of blocks.

The first three references of both are the Schedule, in SMEM. A block pair is computed under pl.when, in one of two
compiled forms: FULL without mask instructions, PARTIAL with. Steps past the active ones do nothing, and fetch nothing.

Per-token numbers travel as rows [1, tokens], for columns would fill 128 lanes for every token in memory.
"""
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import masks
from pallas_kernels.attention.spec import cap, cap_slope
from pallas_kernels.masks import Tokens

_LOW = -1e30                 # the maximum of no scores: finite, so that exp(-inf - _LOW) is 0 and not NaN


def forward(order, full, active, q_tokens, k_tokens, q, k, v, out, lse, top, total, acc, *, spec, scale):
    """Grid (batch, query head, q block, active k block): online softmax over the last axis.

    order [B, n, m], full and active [B, n]: k blocks of every q block. Tokens: positions and segments [2, tokens].
    q, out: [q, H]; k, v: [k, H]; lse: [1, q]. Scratch, float32: top and total [q, 1], acc [q, H].
    """
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    @pl.when(j == 0)
    def _():
        top[...] = jnp.full_like(top, _LOW)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    def step(masked):
        s = cap(scale * _matmul(q[...], k[...], (1, 1)), spec.soft_cap)                         # q k
        if masked:
            s = jnp.where(masks.sees(spec.mask, _columns(q_tokens), _rows(k_tokens)), s, -jnp.inf)
        before = top[...]
        top[...] = jnp.maximum(before, s.max(-1, keepdims=True))
        p = jnp.exp(s - top[...])
        alpha = jnp.exp(before - top[...])
        total[...] = alpha * total[...] + p.sum(-1, keepdims=True)
        acc[...] = alpha * acc[...] + _matmul(p.astype(v.dtype), v[...], (1, 0))

    _on_kind(step, full[b, i], active[b, i], j)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        some = total[...] > 0
        weight = jnp.where(some, total[...], 1.0)
        out[...] = (acc[...] / weight).astype(out.dtype)
        lse[...] = _row(jnp.where(some, top[...] + jnp.log(weight), -jnp.inf))


def backward(order, full, active, q_tokens, k_tokens, q, k, v, dout, lse, delta, dq_zeros, dq, dk, dv, dq_block, dk_acc,
             dv_acc, arrived, *, spec, scale, groups):
    """Grid (batch, key head, k block, query head of the group, active q block): dk and dv over the last two axes.

    order [B, m, n], full and active [B, m]: q blocks of every k block. Scores are transposed, [k, q], so that lse and
    delta [1, q] are rows. dq [B, N, T, H] stays in HBM, where each step adds its block's share through dq_block [q, H];
    it starts as the zeros that it aliases. dq and dk come without the factor `scale`. Scratch is float32.
    """
    b, head, i, group, j = (pl.program_id(axis) for axis in range(5))
    mine = dq.at[b, head * groups + group, pl.ds(order[b, i, j] * q.shape[0], q.shape[0])]

    @pl.when((group == 0) & (j == 0))
    def _():
        dk_acc[...] = jnp.zeros_like(dk_acc)
        dv_acc[...] = jnp.zeros_like(dv_acc)

    def step(masked):
        fetch = pltpu.make_async_copy(mine, dq_block, arrived)
        fetch.start()
        s = cap(scale * _matmul(k[...], q[...], (1, 1)), spec.soft_cap)                         # k q
        p = jnp.exp(s - lse[...])
        if masked:
            p = jnp.where(masks.sees(spec.mask, _rows(q_tokens), _columns(k_tokens)), p, 0.0)
        dv_acc[...] += _matmul(p.astype(dout.dtype), dout[...], (1, 0))
        ds = p * (_matmul(v[...], dout[...], (1, 1)) - delta[...]) * cap_slope(s, spec.soft_cap)
        ds = ds.astype(q.dtype)
        dk_acc[...] += _matmul(ds, q[...], (1, 0))
        share = _matmul(ds, k[...], (0, 0))                                                     # q H
        fetch.wait()
        dq_block[...] += share
        pltpu.sync_copy(dq_block, mine)          # landed before the next step, which may add to the same block

    _on_kind(step, full[b, i], active[b, i], j)

    @pl.when((group == groups - 1) & (j == pl.num_programs(4) - 1))
    def _():
        dk[...] = (scale * dk_acc[...]).astype(dk.dtype)
        dv[...] = dv_acc[...].astype(dv.dtype)


def _on_kind(step, full, active, j):
    """step(masked) in the form that the j-th entry of a schedule asks for."""
    pl.when(j < full)(lambda: step(False))
    pl.when((j >= full) & (j < active))(lambda: step(True))


def _matmul(a, b, contract):
    """float32 a b over the axes `contract`, of a and of b. float32 operands in full precision."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision,
                               preferred_element_type=jnp.float32)


def _rows(tokens):
    """Tokens [1, n] from positions and segments [2, n]."""
    return Tokens(tokens[0:1], tokens[1:2])


def _columns(tokens):
    """Tokens [n, 1] from positions and segments [2, n]."""
    return Tokens(*(_wide(x).T[:, :1] for x in _rows(tokens)))


def _row(column):
    """[n, 1] -> [1, n]."""
    return jnp.broadcast_to(column, (column.shape[0], _LANES)).T[:1]


def _wide(row):
    return jnp.broadcast_to(row, (_LANES, row.shape[1]))


_LANES = 128                 # Mosaic transposes whole tiles
