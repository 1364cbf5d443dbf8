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
from pallas_kernels.attention.blocks import pad_info
from pallas_kernels.attention.pair import Grads, Inputs, RowStats
from pallas_kernels.attention.spec import cap, cap_slope
from pallas_kernels.attention.tpu import pairs
from pallas_kernels.attention.tpu.parts import heads_first, heads_last, info_columns, info_rows, on_kind, stacked
from pallas_kernels.mosaic_tpu import call, like, matmul

_NONE = -1                       # no block of dq


def grads(x: Inputs, spec, stats: RowStats, sizes) -> Grads:
    """Gradients of these queries and keys; see reference.backward."""
    (B, T, _, H), (S, K) = x.q.shape, x.k.shape[1:3]
    infos = pad_info(x.q_info, sizes.q), pad_info(x.k_info, sizes.k)
    block_list, steps = pairs.pairs(pairs.kinds(spec.mask, *infos, *sizes[:3]).swapaxes(1, 2))
    q, dout = (heads_first(y, sizes.q).swapaxes(2, 3) for y in (x.q, stats.dout.astype(x.q.dtype)))     # BNHT
    k, v = heads_first(x.k, sizes.k), heads_first(x.v, sizes.k)                                         # BKSH
    # a row that sees nothing has only masked pairs: any lse does
    lse = math.log2(math.e) * jnp.where(jnp.isfinite(stats.lse), stats.lse, 0.0)
    numbers = jnp.concatenate([heads_first(y, sizes.q) for y in (lse, stats.delta)], 2)                 # BN2T
    kernel = functools.partial(backward, spec=spec, scale=spec.score_scale(H), sizes=sizes)
    operands = [block_list, *map(stacked, infos), q, k, v, dout, numbers, jnp.zeros_like(q, jnp.float32)]
    dk_like, dv_like = (like(y, (B, K, q.shape[2], y.shape[2]), spec.result_dtype(y)) for y in (k, v))
    dq, dk, dv = call(kernel, _grid(q, k, steps, sizes), "parallel parallel arbitrary arbitrary",
                      [like(q, q.shape, jnp.float32), dk_like, dv_like], operands, {len(operands) - 1: 0})
    dq = (spec.score_scale(H) * dq).astype(spec.result_dtype(x.q))
    return Grads(*(heads_last(y.swapaxes(2, 3), length, H) for y, length in ((dq, T), (dk, S), (dv, S))))


def _grid(q, k, steps, sizes):
    """The grid of `backward`, and which blocks of q [B, N, H, T], k [B, K, S, H] and the others a step works on."""
    (B, N, head), K = q.shape[:3], k.shape[1]
    G, anywhere = N // K, pl.BlockSpec(memory_space=pl.ANY)
    outer, inner = (lambda b, t, block_list, read=read: read(block_list[b, t]) for read in (pairs.outer, pairs.inner))
    of_queries, of_keys = (lambda b, h, t, g, block_list: (b, h * G + g, 0, inner(b, t, block_list)),
                           lambda b, h, t, g, block_list: (b, h, 0, outer(b, t, block_list)))
    queries = pl.BlockSpec((None, None, head, sizes.q), of_queries)
    keys = pl.BlockSpec((None, None, sizes.k, head), lambda b, h, t, g, block_list: (b, h, outer(b, t, block_list), 0))
    return pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(B, K, steps, G),
        in_specs=[pl.BlockSpec((None, 2, sizes.q), lambda b, h, t, g, block_list: (b, 0, inner(b, t, block_list))),
                  pl.BlockSpec((None, 2, sizes.k), lambda b, h, t, g, block_list: (b, 0, outer(b, t, block_list))),
                  queries, keys, keys, queries, pl.BlockSpec((None, None, 2, sizes.q), of_queries), anywhere],
        out_specs=[anywhere, *[pl.BlockSpec((None, None, head, sizes.k), of_keys)] * 2],
        scratch_shapes=[pltpu.VMEM((head, sizes.k), k.dtype),
                        *(pltpu.VMEM((head, n), jnp.float32) for n in (sizes.k, sizes.k, sizes.q)),
                        pltpu.VMEM((2, head, sizes.q), jnp.float32), pltpu.SMEM((2,), jnp.int32),
                        pltpu.SemaphoreType.DMA((2,))])


def backward(block_list, q_info, k_info, q, k, v, dout, numbers, dq_zeros, dq, dk, dv, k_across, dk_sum, dv_sum,
             share, dq_blocks, flight, moved, *, spec, scale, sizes):
    """Grid (batch, key head, pair of blocks, query head of the group). block_list int32 [B, pairs], by key block, in
    SMEM.

    Infos: positions and segments [2, tokens]. q, dout: [H, q]; k, v: [k, H]; numbers: log2(e) lse and delta, [2, q];
    dk, dv: [H, k]. Scratch: k_across [H, k], the transpose of k; float32 dk_sum and dv_sum [H, k], share [H, q].

    dq [B, N, H, T] stays in HBM, without the factor `scale`, where each step adds its share to a block through one of
    dq_blocks [2, H, q]; it starts as the zeros that it aliases. The block is fetched while the share is computed, and
    is on its way back during the next step that computes: `flight` is which block that is, and in which buffer.
    """
    b, head, t, group = (pl.program_id(axis) for axis in range(4))
    groups, entry = pl.num_programs(3), block_list[b, t]
    column = pl.multiple_of(pairs.inner(entry) * sizes.q, sizes.q)
    dq_block = dq.at[b, head * groups + group, :, pl.ds(column, sizes.q)]

    def landed():
        """Waits for the block in flight; copies of one size are all waited for alike."""
        pltpu.make_async_copy(dq_blocks.at[0], dq_block, moved.at[1]).wait()

    @pl.when((t == 0) & (group == 0))
    def _():
        flight[0], flight[1] = _NONE, 0

    @pl.when(pairs.first(entry) & (group == 0))
    def _():
        k_across[...] = k[...].T
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    number, flying, buffer = pairs.inner(entry) * groups + group, flight[0], 1 - flight[1]
    computes = pairs.kind(entry) != masks.EMPTY
    fetch = pltpu.make_async_copy(dq_block, dq_blocks.at[buffer], moved.at[0])
    pl.when(computes & (flying == number))(landed)
    pl.when(computes)(fetch.start)

    queries = _Queries(q_info, q, dout, numbers, share)
    keys = _Keys(k_info, k, k_across, v, dk_sum, dv_sum)

    def compute(kind):
        rows = sizes.q if kind == pairs.LOWER else sizes.rows

        @pl.loop(0, sizes.q // rows)
        def _(i):
            strip = pl.ds(pl.multiple_of(i * rows, rows), rows)
            _strip(kind, _Queries(*(ref.at[:, strip] for ref in queries)), keys, spec, scale, sizes.chunk)

    on_kind(pairs.kind(entry), compute)

    @pl.when(computes)
    def _():
        pl.when((flying != number) & (flying != _NONE))(landed)
        fetch.wait()
        dq_blocks[buffer] += share[...]
        pltpu.make_async_copy(dq_blocks.at[buffer], dq_block, moved.at[1]).start()
        flight[0], flight[1] = number, buffer

    @pl.when(pairs.last(entry) & (group == groups - 1))
    def _():
        dk[...] = (scale * dk_sum[...]).astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)

    pl.when((t == pl.num_programs(2) - 1) & (group == groups - 1) & (flight[0] != _NONE))(landed)


class _Queries(NamedTuple):
    """References to arrays of queries, each of which is a column."""
    info: jax.Ref
    q: jax.Ref
    dout: jax.Ref
    numbers: jax.Ref
    share: jax.Ref


class _Keys(NamedTuple):
    """References to arrays of keys, each of which is a row in k and v, and a column in the others."""
    info: jax.Ref
    k: jax.Ref
    k_across: jax.Ref
    v: jax.Ref
    dk: jax.Ref
    dv: jax.Ref


def _strip(kind, queries, keys, spec, scale, chunk):
    """Adds the gradients of these queries and keys to keys.dk and keys.dv, and leaves that of q in queries.share.

    A software pipeline over tiles of chunk x chunk scores, straight-line: while the scores of a tile are computed, the
    weights of the one before become ds, and those of the one before that give the three gradients. Within a stage, the
    matmuls that load scores into the matrix unit transposed, which is slow, alternate with those that stream longest.
    """
    cut = lambda ref: [slice(at, at + chunk) for at in range(0, ref.shape[1], chunk)]
    tiles = [(ks, qs) for qs in cut(queries.q) for ks in cut(keys.dk) if kind != pairs.LOWER or ks.start <= qs.start]
    factor = math.log2(math.e) * (1.0 if spec.soft_cap else scale)

    def weights(ks, qs, s, dp):
        if spec.soft_cap:
            s = cap(scale * s, spec.soft_cap)
        p = jnp.exp2(factor * s - queries.numbers[:1, qs])
        if kind == masks.PARTIAL or kind == pairs.LOWER and ks == qs:
            q_info, k_info = info_rows(queries.info[:, qs]), info_columns(keys.info[:, ks], chunk)
            p = jnp.where(masks.sees(spec.mask, q_info, k_info), p, 0.0)
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
