"""The TPU forward kernel: one pair of blocks at each grid step, online softmax over the pairs of a block of queries."""
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import masks
from pallas_kernels.attention import pairs, tiles
from pallas_kernels.attention.spec import cap
from pallas_kernels.attention.tpu_parts import (
    as_row,
    heads_first,
    heads_last,
    on_kind,
    stacked,
    token_columns,
    token_rows,
)
from pallas_kernels.mosaic import call, like, matmul

_LOW = -1e30                 # the maximum of no scores: finite, so that exp(-inf - _LOW) is 0 and not NaN


def attend(q, k, v, tokens, spec, blocks):
    """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    (B, T, N, H), G = q.shape, q.shape[2] // k.shape[2]
    tokens = tiles.pad_tokens(tokens[0], blocks.q), tiles.pad_tokens(tokens[1], blocks.k)
    table, steps = pairs.pairs(pairs.kinds(spec.mask, *tokens, *blocks))
    q, k, v = heads_first(q, blocks.q), heads_first(k, blocks.k), heads_first(v, blocks.k)
    outer, inner = (lambda b, t, table, read=read: read(table[b, t]) for read in (pairs.outer, pairs.inner))
    queries = pl.BlockSpec((None, None, blocks.q, q.shape[3]), lambda b, h, t, table: (b, h, outer(b, t, table), 0))
    keys = pl.BlockSpec((None, None, blocks.k, k.shape[3]),
                        lambda b, h, t, table: (b, jax.lax.div(h, G), inner(b, t, table), 0))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(B, N, steps),
        in_specs=[pl.BlockSpec((None, 2, blocks.q), lambda b, h, t, table: (b, 0, outer(b, t, table))),
                  pl.BlockSpec((None, 2, blocks.k), lambda b, h, t, table: (b, 0, inner(b, t, table))),
                  queries, keys, keys],
        out_specs=[queries, pl.BlockSpec((None, None, 1, blocks.q),
                                         lambda b, h, t, table: (b, h, 0, outer(b, t, table)))],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32)
                        for shape in ((blocks.q, 1), (blocks.q, 1), (blocks.q, q.shape[3]))])
    kernel = functools.partial(forward, spec=spec, scale=spec.score_scale(H))
    out, lse = call(kernel, grid, "parallel parallel arbitrary",
                    [like(q, q.shape, spec.result_dtype(q)), like(q, (B, N, 1, q.shape[2]), jnp.float32)],
                    [table, *map(stacked, tokens), q, k, v])
    return heads_last(out, T, H), lse[:, :, 0, :T].swapaxes(1, 2)


def forward(table, q_tokens, k_tokens, q, k, v, out, lse, top, total, acc, *, spec, scale):
    """Grid (batch, query head, pair of blocks). table int32 [B, pairs], in SMEM.

    Tokens: positions and segments [2, tokens]. q, out: [q, H]; k, v: [k, H]; lse: [1, q].
    Scratch, float32: top and total [q, 1], acc [q, H].
    """
    entry = table[pl.program_id(0), pl.program_id(2)]

    @pl.when(pairs.first(entry))
    def _():
        top[...] = jnp.full_like(top, _LOW)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    def step(form):
        s = cap(scale * matmul(q[...], k[...], (1, 1)), spec.soft_cap)                         # q k
        if form != masks.FULL:
            s = jnp.where(masks.sees(spec.mask, token_columns(q_tokens), token_rows(k_tokens)), s, -jnp.inf)
        before = top[...]
        top[...] = jnp.maximum(before, s.max(-1, keepdims=True))
        p = jnp.exp(s - top[...])
        alpha = jnp.exp(before - top[...])
        total[...] = alpha * total[...] + p.sum(-1, keepdims=True)
        acc[...] = alpha * acc[...] + matmul(p.astype(v.dtype), v[...], (1, 0))

    on_kind(pairs.kind(entry), step)

    @pl.when(pairs.last(entry))
    def _():
        some = total[...] > 0
        weight = jnp.where(some, total[...], 1.0)
        out[...] = (acc[...] / weight).astype(out.dtype)
        lse[...] = as_row(jnp.where(some, top[...] + jnp.log(weight), -jnp.inf))
