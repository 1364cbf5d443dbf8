"""The fused TPU backward kernel: a pair of blocks at each grid step, dk and dv summed over the pairs of a key block.

Scores are computed transposed, [k, q], so that what belongs to a query is a row [1, q], and so are the gradients,
[H, tokens]: their long side is then the width of the matrix unit, which a head of 128 alone would fill half on v6e.
"""
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import masks
from pallas_kernels.attention import blocks as tiles
from pallas_kernels.attention.spec import Rows, cap, cap_slope
from pallas_kernels.attention.tpu import pairs
from pallas_kernels.attention.tpu.parts import heads_first, heads_last, on_kind, stacked, token_columns, token_rows
from pallas_kernels.mosaic_tpu import call, like, matmul

_NONE = -1                       # no block of dq


def grads(q, k, v, tokens, spec, rows: Rows, blocks):
    """(dq, dk, dv) of these keys and queries; see reference.backward."""
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    G = N // K
    tokens = tiles.pad_tokens(tokens[0], blocks.q), tiles.pad_tokens(tokens[1], blocks.k)
    table, steps = pairs.pairs(pairs.kinds(spec.mask, *tokens, blocks.q, blocks.k, blocks.chunk).swapaxes(1, 2))
    q, dout = (heads_first(x, blocks.q).swapaxes(2, 3) for x in (q, rows.dout.astype(q.dtype)))        # BNHT
    k, v = heads_first(k, blocks.k), heads_first(v, blocks.k)                                           # BKSH
    # a row that sees nothing has only masked pairs: any lse does
    lse = math.log2(math.e) * jnp.where(jnp.isfinite(rows.lse), rows.lse, 0.0)
    numbers = jnp.concatenate([heads_first(x, blocks.q) for x in (lse, rows.delta)], 2)                 # BN2T
    outer, inner = (lambda b, t, table, read=read: read(table[b, t]) for read in (pairs.outer, pairs.inner))
    of_queries, of_keys = (lambda b, h, t, g, table: (b, h * G + g, 0, inner(b, t, table)),
                           lambda b, h, t, g, table: (b, h, 0, outer(b, t, table)))
    head, anywhere = q.shape[2], pl.BlockSpec(memory_space=pl.ANY)
    queries = pl.BlockSpec((None, None, head, blocks.q), of_queries)
    keys = pl.BlockSpec((None, None, blocks.k, head), lambda b, h, t, g, table: (b, h, outer(b, t, table), 0))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(B, K, steps, G),
        in_specs=[pl.BlockSpec((None, 2, blocks.q), lambda b, h, t, g, table: (b, 0, inner(b, t, table))),
                  pl.BlockSpec((None, 2, blocks.k), lambda b, h, t, g, table: (b, 0, outer(b, t, table))),
                  queries, keys, keys, queries, pl.BlockSpec((None, None, 2, blocks.q), of_queries), anywhere],
        out_specs=[anywhere, *[pl.BlockSpec((None, None, head, blocks.k), of_keys)] * 2],
        scratch_shapes=[pltpu.VMEM((head, blocks.k), k.dtype),
                        *(pltpu.VMEM((head, n), jnp.float32) for n in (blocks.k, blocks.k, blocks.q)),
                        pltpu.VMEM((2, head, blocks.q), jnp.float32), pltpu.SMEM((2,), jnp.int32),
                        pltpu.SemaphoreType.DMA((2,))])
    kernel = functools.partial(backward, spec=spec, scale=spec.score_scale(H), blocks=blocks)
    operands = [table, *map(stacked, tokens), q, k, v, dout, numbers, jnp.zeros_like(q, jnp.float32)]
    dk_like, dv_like = (like(x, (B, K, head, x.shape[2]), spec.result_dtype(x)) for x in (k, v))
    dq, dk, dv = call(kernel, grid, "parallel parallel arbitrary arbitrary",
                      [like(q, q.shape, jnp.float32), dk_like, dv_like], operands, {len(operands) - 1: 0})
    dq = (spec.score_scale(H) * dq).astype(spec.result_dtype(q))
    return *(heads_last(x.swapaxes(2, 3), length, H) for x, length in ((dq, T), (dk, S), (dv, S))),


def backward(table, q_tokens, k_tokens, q, k, v, dout, numbers, dq_zeros, dq, dk, dv, k_across, dk_sum, dv_sum,
             share, dq_blocks, flight, moved, *, spec, scale, blocks):
    """Grid (batch, key head, pair of blocks, query head of the group). table int32 [B, pairs], by key block, in SMEM.

    Tokens: positions and segments [2, tokens]. q, dout: [H, q]; k, v: [k, H]; numbers: log2(e) lse and delta, [2, q];
    dk, dv: [H, k]. Scratch: k_across [H, k], the transpose of k; float32 dk_sum and dv_sum [H, k], share [H, q].

    dq [B, N, H, T] stays in HBM, without the factor `scale`, where each step adds its share to a block through one of
    dq_blocks [2, H, q]; it starts as the zeros that it aliases. The block is fetched while the share is computed, and
    is on its way back during the next step that computes: `flight` is which block that is, and in which buffer.
    """
    b, head, t, group = (pl.program_id(axis) for axis in range(4))
    groups, entry = pl.num_programs(3), table[b, t]
    column = pl.multiple_of(pairs.inner(entry) * blocks.q, blocks.q)
    mine = dq.at[b, head * groups + group, :, pl.ds(column, blocks.q)]

    def landed():
        """Waits for the block in flight; copies of one size are all waited for alike."""
        pltpu.make_async_copy(dq_blocks.at[0], mine, moved.at[1]).wait()

    @pl.when((t == 0) & (group == 0))
    def _():
        flight[0], flight[1] = _NONE, 0

    @pl.when(pairs.first(entry) & (group == 0))
    def _():
        k_across[...] = k[...].T
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    number, before, buffer = pairs.inner(entry) * groups + group, flight[0], 1 - flight[1]
    some = pairs.kind(entry) != masks.EMPTY
    fetch = pltpu.make_async_copy(mine, dq_blocks.at[buffer], moved.at[0])
    pl.when(some & (before == number))(landed)
    pl.when(some)(fetch.start)

    queries = _Queries(q_tokens, q, dout, numbers, share)
    keys = _Keys(k_tokens, k, k_across, v, dk_sum, dv_sum)

    def compute(form):
        rows = blocks.q if form == pairs.LOWER else blocks.rows

        @pl.loop(0, blocks.q // rows)
        def _(i):
            here = pl.ds(pl.multiple_of(i * rows, rows), rows)
            _strip(form, _Queries(*(ref.at[:, here] for ref in queries)), keys, spec, scale, blocks.chunk)

    on_kind(pairs.kind(entry), compute)

    @pl.when(some)
    def _():
        pl.when((before != number) & (before != _NONE))(landed)
        fetch.wait()
        dq_blocks[buffer] += share[...]
        pltpu.make_async_copy(dq_blocks.at[buffer], mine, moved.at[1]).start()
        flight[0], flight[1] = number, buffer

    @pl.when(pairs.last(entry) & (group == groups - 1))
    def _():
        dk[...] = (scale * dk_sum[...]).astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)

    pl.when((t == pl.num_programs(2) - 1) & (group == groups - 1) & (flight[0] != _NONE))(landed)


class _Queries(NamedTuple):
    """References to what belongs to queries, in columns."""
    tokens: jax.Ref
    q: jax.Ref
    dout: jax.Ref
    numbers: jax.Ref
    share: jax.Ref


class _Keys(NamedTuple):
    """References to what belongs to keys: k and v in rows, the others in columns."""
    tokens: jax.Ref
    k: jax.Ref
    k_across: jax.Ref
    v: jax.Ref
    dk: jax.Ref
    dv: jax.Ref


def _strip(form, queries, keys, spec, scale, chunk):
    """Adds to keys.dk and keys.dv, and leaves in queries.share, what these queries and keys give.

    A software pipeline over tiles of chunk x chunk scores, straight-line: while the scores of a tile are computed, the
    weights of the one before become ds, and those of the one before that give the three gradients. Within a stage, the
    matmuls that load scores into the matrix unit transposed, which is slow, alternate with those that stream longest.
    """
    cut = lambda ref: [slice(at, at + chunk) for at in range(0, ref.shape[1], chunk)]
    tiles = [(ks, qs) for qs in cut(queries.q) for ks in cut(keys.dk) if form != pairs.LOWER or ks.start <= qs.start]
    factor = math.log2(math.e) * (1.0 if spec.soft_cap else scale)

    def weights(ks, qs, s, dp):
        if spec.soft_cap:
            s = cap(scale * s, spec.soft_cap)
        p = jnp.exp2(factor * s - queries.numbers[:1, qs])
        if form == masks.PARTIAL or form == pairs.LOWER and ks == qs:
            q_tokens, k_tokens = token_rows(queries.tokens[:, qs]), token_columns(keys.tokens[:, ks], chunk)
            p = jnp.where(masks.sees(spec.mask, q_tokens, k_tokens), p, 0.0)
        ds = p * (dp - queries.numbers[1:, qs]) * cap_slope(s, spec.soft_cap)
        return p.astype(queries.dout.dtype), ds.astype(queries.q.dtype)

    now = old = None
    for new in [*tiles, None, None]:
        if old:
            ks, qs, p, ds = old
            keys.dv[:, ks] += matmul(queries.dout[:, qs], p, (1, 1))
        if new:
            s = matmul(keys.k[new[0]], queries.q[:, new[1]], (1, 0))
        if old:
            keys.dk[:, ks] += matmul(queries.q[:, qs], ds, (1, 1))
        if new:
            dp = matmul(keys.v[new[0]], queries.dout[:, new[1]], (1, 0))
        if old:
            part = matmul(keys.k_across[:, ks], ds, (1, 0))
            queries.share[:, qs] = part if ks.start == 0 else queries.share[:, qs] + part
        old = now and (*now[:2], *weights(*now))
        now = new and (*new, s, dp)
