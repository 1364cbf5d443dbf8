"""The fused TPU backward kernel: a pair of blocks at each grid step, dk and dv summed over the pairs of a key block.

Scores are computed transposed, [k, q], so that what belongs to a query is a row [1, q], and so are the gradients,
[H, tokens]: their long side is then the width of the matrix unit, which a head of 128 alone would fill half on v6e.
"""
import functools
import math

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import masks
from pallas_kernels.attention import pairs, tiles
from pallas_kernels.attention.spec import Rows, cap, cap_slope
from pallas_kernels.attention.tpu_parts import (
    call,
    heads_first,
    heads_last,
    like,
    matmul,
    on_kind,
    stacked,
    token_rows,
)
from pallas_kernels.attention.tpu_blocks import LANES
from pallas_kernels.masks import Tokens

STRIP = 512
_NONE = -1                       # no block of dq


def grads(q, k, v, tokens, spec, rows: Rows, blocks):
    """(dq, dk, dv) of these keys and queries; see reference.backward."""
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    G = N // K
    tokens = tiles.pad_tokens(tokens[0], blocks.q), tiles.pad_tokens(tokens[1], blocks.k)
    table, steps = pairs.pairs(pairs.kinds(spec.mask, *tokens, *blocks).swapaxes(1, 2))
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
    kernel = functools.partial(backward, spec=spec, scale=spec.score_scale(H), chunk=blocks.chunk)
    operands = [table, *map(stacked, tokens), q, k, v, dout, numbers, jnp.zeros_like(q, jnp.float32)]
    dk_like, dv_like = (like(x, (B, K, head, x.shape[2]), spec.result_dtype(x)) for x in (k, v))
    dq, dk, dv = call(kernel, grid, "parallel parallel arbitrary arbitrary",
                      [like(q, q.shape, jnp.float32), dk_like, dv_like], operands, {len(operands) - 1: 0})
    dq = (spec.score_scale(H) * dq).astype(spec.result_dtype(q))
    return *(heads_last(x.swapaxes(2, 3), length, H) for x, length in ((dq, T), (dk, S), (dv, S))),


def backward(table, q_tokens, k_tokens, q, k, v, dout, numbers, dq_zeros, dq, dk, dv, k_turned, dk_sum, dv_sum,
             share, dq_blocks, flight, moved, *, spec, scale, chunk):
    """Grid (batch, key head, pair of blocks, query head of the group). table int32 [B, pairs], by key block, in SMEM.

    Tokens: positions and segments [2, tokens]. q, dout: [H, q]; k, v: [k, H]; numbers: log2(e) lse and delta, [2, q];
    dk, dv: [H, k]. Scratch: k_turned [H, k]; float32 dk_sum and dv_sum [H, k], share [H, q].

    dq [B, N, H, T] stays in HBM, without the factor `scale`, where each step adds its share to a block through one of
    dq_blocks [2, H, q]; it starts as the zeros that it aliases. The block is fetched while the share is computed, and
    is on its way back during the next step: flight is which block that is, and in which of the two buffers.
    """
    b, head, t, group = (pl.program_id(axis) for axis in range(4))
    entry = table[b, t]

    @pl.when((t == 0) & (group == 0))
    def _():
        flight[0], flight[1] = _NONE, 0

    @pl.when(pairs.first(entry) & (group == 0))
    def _():
        k_turned[...] = k[...].T
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    def add_to_dq(compute):
        column = pl.multiple_of(pairs.inner(entry) * q.shape[1], q.shape[1])
        mine = dq.at[b, head * pl.num_programs(3) + group, :, pl.ds(column, q.shape[1])]
        number, before, buffer = pairs.inner(entry) * pl.num_programs(3) + group, flight[0], 1 - flight[1]
        fetch = pltpu.make_async_copy(mine, dq_blocks.at[buffer], moved.at[0])
        pl.when(before == number)(lambda: _landed(dq_blocks, moved))
        fetch.start()
        compute()
        pl.when((before != number) & (before != _NONE))(lambda: _landed(dq_blocks, moved))
        fetch.wait()
        dq_blocks[buffer] += share[...]
        pltpu.make_async_copy(dq_blocks.at[buffer], mine, moved.at[1]).start()
        flight[0], flight[1] = number, buffer

    def compute(form):
        strip = q.shape[1] if form == pairs.LOWER else min(STRIP, q.shape[1])
        @pl.loop(0, q.shape[1] // strip)
        def _(i):
            at = lambda ref: ref.at[:, pl.ds(pl.multiple_of(i * strip, strip), strip)]
            _strip(form, at(q_tokens), k_tokens, at(q), k, k_turned, v, at(dout), at(numbers), at(share), dk_sum, dv_sum,
                   spec, scale, chunk)

    on_kind(pairs.kind(entry), lambda form: add_to_dq(lambda: compute(form)))

    @pl.when(pairs.last(entry) & (group == pl.num_programs(3) - 1))
    def _():
        dk[...] = (scale * dk_sum[...]).astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)

    @pl.when((t == pl.num_programs(2) - 1) & (group == pl.num_programs(3) - 1) & (flight[0] != _NONE))
    def _():
        _landed(dq_blocks, moved)


def _landed(dq_blocks, moved):
    """Waits until the block of dq that is on its way to HBM is there; copies of one size are all waited for alike."""
    pltpu.make_async_copy(dq_blocks.at[0], dq_blocks.at[1], moved.at[1]).wait()


def _columns(tokens, width):
    """Tokens [n, width], alike along each row, from positions and segments [2, n]."""
    wide = [jnp.broadcast_to(x, (LANES, x.shape[1])).T for x in token_rows(tokens)]
    return Tokens(*(jnp.concatenate([x] * (width // LANES), 1) for x in wide))


def _strip(form, q_tokens, k_tokens, q, k, k_turned, v, dout, numbers, share, dk_sum, dv_sum, spec, scale, chunk):
    """Adds to dk_sum and dv_sum, and leaves in `share`, what one pair of blocks gives.

    A software pipeline over tiles of chunk x chunk scores, straight-line: while the scores of a tile are computed, the
    weights of the one before become ds, and those of the one before that give the three gradients. Their order within a
    stage is the one that keeps the matrix units busiest: the next stationary operand is loaded while the last streams.
    """
    cut = lambda n: [slice(i, i + chunk) for i in range(0, n, chunk)]
    todo = [(ks, qs) for qs in cut(q.shape[1]) for ks in cut(k.shape[0]) if form != pairs.LOWER or ks.start <= qs.start]
    of_keys = None if form == masks.FULL else _columns(k_tokens, chunk)
    to_base2 = scale * math.log2(math.e)

    def weights(ks, qs, s, dp):
        if spec.soft_cap:
            s = cap(scale * s, spec.soft_cap)
        p = jnp.exp2((math.log2(math.e) if spec.soft_cap else to_base2) * s - numbers[:1, qs])
        if form != masks.FULL:
            sees = spec.mask.visible if form == pairs.LOWER else functools.partial(masks.sees, spec.mask)
            p = jnp.where(sees(token_rows(q_tokens[:, qs]), Tokens(*(x[ks] for x in of_keys))), p, 0.0)
        ds = p * (dp - numbers[1:, qs]) * cap_slope(s, spec.soft_cap)
        return p.astype(dout.dtype), ds.astype(q.dtype)

    now = old = None
    for new in [*todo, None, None]:
        if old:
            ks, qs, p, ds = old
            dv_sum[:, ks] += matmul(dout[:, qs], p, (1, 1))
        if new:
            s = matmul(k[new[0]], q[:, new[1]], (1, 0))
        if old:
            dk_sum[:, ks] += matmul(q[:, qs], ds, (1, 1))
        if new:
            dp = matmul(v[new[0]], dout[:, new[1]], (1, 0))
        if old:
            part = matmul(k_turned[:, ks], ds, (1, 0))
            share[:, qs] = part if ks.start == 0 else share[:, qs] + part
        old = now and (*now[:2], *weights(*now))
        now = new and (*new, s, dp)
