"""The fused TPU backward kernel: a pair of blocks at each grid step, dk and dv summed over the pairs of a key block."""
import functools

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import masks
from pallas_kernels.attention import pairs, tiles
from pallas_kernels.attention.spec import Rows, cap, cap_slope
from pallas_kernels.attention.tpu_parts import (
    heads_first,
    heads_last,
    on_kind,
    stacked,
    token_columns,
    token_rows,
)
from pallas_kernels.mosaic import call, like, matmul


def grads(q, k, v, tokens, spec, rows: Rows, blocks):
    """(dq, dk, dv) of these keys and queries; see reference.backward."""
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    G = N // K
    tokens = tiles.pad_tokens(tokens[0], blocks.q), tiles.pad_tokens(tokens[1], blocks.k)
    table, steps = pairs.pairs(pairs.kinds(spec.mask, *tokens, *blocks).swapaxes(1, 2))
    # a row that sees nothing has only masked pairs: any value does
    lse = jnp.where(jnp.isfinite(rows.lse), rows.lse, 0.0)
    q, dout, lse, delta = (heads_first(x, blocks.q) for x in (q, rows.dout.astype(q.dtype), lse, rows.delta))
    k, v = heads_first(k, blocks.k), heads_first(v, blocks.k)
    outer, inner = (lambda b, t, table, read=read: read(table[b, t]) for read in (pairs.outer, pairs.inner))
    queries = pl.BlockSpec((None, None, blocks.q, q.shape[3]),
                           lambda b, h, t, g, table: (b, h * G + g, inner(b, t, table), 0))
    keys = pl.BlockSpec((None, None, blocks.k, k.shape[3]), lambda b, h, t, g, table: (b, h, outer(b, t, table), 0))
    row = pl.BlockSpec((None, None, 1, blocks.q), lambda b, h, t, g, table: (b, h * G + g, 0, inner(b, t, table)))
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(B, K, steps, G),
        in_specs=[pl.BlockSpec((None, 2, blocks.q), lambda b, h, t, g, table: (b, 0, inner(b, t, table))),
                  pl.BlockSpec((None, 2, blocks.k), lambda b, h, t, g, table: (b, 0, outer(b, t, table))),
                  queries, keys, keys, queries, row, row, anywhere],
        out_specs=[anywhere, keys, keys],
        scratch_shapes=[*(pltpu.VMEM((n, q.shape[3]), jnp.float32) for n in (blocks.q, blocks.k, blocks.k)),
                        pltpu.SemaphoreType.DMA])
    kernel = functools.partial(backward, spec=spec, scale=spec.score_scale(H), groups=G)
    operands = [table, *map(stacked, tokens), q, k, v, dout, lse, delta, jnp.zeros_like(q, jnp.float32)]
    dq, dk, dv = call(kernel, grid, "parallel parallel arbitrary arbitrary",
                      [like(q, q.shape, jnp.float32), *(like(x, x.shape, spec.result_dtype(x)) for x in (k, v))],
                      operands, {len(operands) - 1: 0})
    dq = (spec.score_scale(H) * dq).astype(spec.result_dtype(q))
    return heads_last(dq, T, H), heads_last(dk, S, H), heads_last(dv, S, H)


def backward(table, q_tokens, k_tokens, q, k, v, dout, lse, delta, dq_zeros, dq, dk, dv, dq_block, dk_acc, dv_acc,
             arrived, *, spec, scale, groups):
    """Grid (batch, key head, pair of blocks, query head of the group). table int32 [B, pairs], by key block, in SMEM.

    Scores are transposed, [k, q], so that lse and delta [1, q] are rows. dq [B, N, T, H] stays in HBM, where each step
    adds its block's share through dq_block [q, H]; it starts as the zeros that it aliases. dq and dk come without the
    factor `scale`. Scratch is float32.
    """
    b, head, t, group = (pl.program_id(axis) for axis in range(4))
    entry = table[b, t]
    mine = dq.at[b, head * groups + group, pl.ds(pairs.inner(entry) * q.shape[0], q.shape[0])]

    @pl.when(pairs.first(entry) & (group == 0))
    def _():
        dk_acc[...] = jnp.zeros_like(dk_acc)
        dv_acc[...] = jnp.zeros_like(dv_acc)

    def step(form):
        fetch = pltpu.make_async_copy(mine, dq_block, arrived)
        fetch.start()
        s = cap(scale * matmul(k[...], q[...], (1, 1)), spec.soft_cap)                         # k q
        p = jnp.exp(s - lse[...])
        if form != masks.FULL:
            p = jnp.where(masks.sees(spec.mask, token_rows(q_tokens), token_columns(k_tokens)), p, 0.0)
        dv_acc[...] += matmul(p.astype(dout.dtype), dout[...], (1, 0))
        ds = p * (matmul(v[...], dout[...], (1, 1)) - delta[...]) * cap_slope(s, spec.soft_cap)
        ds = ds.astype(q.dtype)
        dk_acc[...] += matmul(ds, q[...], (1, 0))
        share = matmul(ds, k[...], (0, 0))                                                     # q H
        fetch.wait()
        dq_block[...] += share
        pltpu.sync_copy(dq_block, mine)          # landed before the next step, which may add to the same block

    on_kind(pairs.kind(entry), step)

    @pl.when(pairs.last(entry) & (group == groups - 1))
    def _():
        dk[...] = (scale * dk_acc[...]).astype(dk.dtype)
        dv[...] = dv_acc[...].astype(dv.dtype)
