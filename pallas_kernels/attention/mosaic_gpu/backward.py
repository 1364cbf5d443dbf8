"""The backward kernels for Hopper: one for dq, one for dk and dv, each the other with queries and keys exchanged.

A thread block keeps 128 queries, or keys, and takes them through the blocks of the other side that its Schedule lists,
FULL ones first. Each gradient is summed by one warpgroup in one order: deterministic, with no atomics and no copies of
keys for the query heads that share them, in return for computing scores twice. RowStats are global, so every weight is.

A side, in global or shared memory, is (k, v, info) or (q, dout, info, numbers): scores are made of the first of either,
dP = dout v^T of the second; an info is positions and segments, numbers are log2(e) lse and delta.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import mosaic_gpu
from pallas_kernels.attention import blocks
from pallas_kernels.attention.mosaic_gpu.parts import COMPUTE, LOG2E, ROWS, along, hide, scores, stream
from pallas_kernels.attention.pair import Grads, Inputs, RowStats
from pallas_kernels.attention.spec import AttentionSpec, cap_slope
from pallas_kernels.mosaic_gpu import TILE, WARPGROUP

_WIDTH = COMPUTE * ROWS          # tokens that a thread block keeps


class _Shared(NamedTuple):
    """Shared memory: the side that is kept, a few blocks of the other, and barriers.

    kept_ready, ready: the side, a block, is there to be read. free: the block has been read.
    """
    kept: tuple[jax.Ref, ...]
    others: tuple[jax.Ref, ...]
    kept_ready: jax.Ref
    ready: jax.Ref
    free: jax.Ref


def grads(x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
    """Gradients of these queries and keys; see reference.backward."""
    lse = LOG2E * jnp.where(jnp.isfinite(stats.lse), stats.lse, 0.0)      # where it is -inf all is masked: any will do
    numbers = blocks.pad(jnp.stack((lse, stats.delta)).transpose(1, 3, 0, 2), 3, _WIDTH)                    # B N 2 T
    q_info, k_info = blocks.pad_info(x.q_info, _WIDTH), blocks.pad_info(x.k_info, _WIDTH)
    padded = lambda *arrays: (blocks.pad(y, 1, _WIDTH) for y in arrays)
    queries = *padded(x.q, stats.dout.astype(x.q.dtype)), jnp.stack(q_info, 1), numbers
    keys = *padded(x.k, x.v), jnp.stack(k_info, 1)
    relations = functools.partial(blocks.relations, spec.mask, q_info, k_info)
    # with wider blocks registers would not suffice
    block = 64 if spec.soft_cap else 2**13 // x.q.shape[3]
    dq, = _call(backward_queries, queries, keys, blocks.schedule(relations(_WIDTH, block)), block, spec, 1)
    schedule = blocks.schedule(relations(64, _WIDTH).swapaxes(1, 2))
    dk, dv = _call(backward_keys, keys, queries, schedule, 64, spec, 2)
    return Grads(dq[:, :x.q.shape[1]], dk[:, :x.k.shape[1]], dv[:, :x.k.shape[1]])


def _call(kernel, kept, others, schedule, block, spec, results):
    """The kernel's results, as many as `results`, each like the first array of the side that is kept."""
    (B, length, heads, H), dtype, stages = kept[0].shape, kept[0].dtype, 2**15 // (block * kept[0].shape[3])

    def side(arrays, tiles, pairs):
        return *[mosaic_gpu.tiles(*tiles, H, dtype=dtype)] * 2, *(plgpu.SMEM(pairs, x.dtype) for x in arrays[2:])
    shared = _Shared(side(kept, (COMPUTE, ROWS), (2, _WIDTH)), side(others, (stages, block), (stages, 2, block)),
                     plgpu.Barrier(num_arrivals=2 * COMPUTE + len(kept) - 2),
                     plgpu.Barrier(num_arrivals=len(others), num_barriers=stages),
                     plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages))
    return mosaic_gpu.call(
        functools.partial(kernel, spec=spec, scale=spec.score_scale(H)),
        [jax.ShapeDtypeStruct(kept[0].shape, spec.result_dtype(kept[0]))] * results, [shared],
        {"tile": length // _WIDTH, "head": heads, "row": B}, COMPUTE + 1, [kept, others, *schedule])


def backward_queries(queries, keys, order, full, active, dq, shared, *, spec, scale):
    """Grid (tile of queries, head, row of the batch). queries, keys: sides, BTNH and BSKH, infos [B, 2, .] and numbers
    [B, N, 2, T]; order [B, tiles, blocks], full, active [B, tiles]: a Schedule. All of it in global memory.
    """
    _backward(queries, keys, (order, full, active), (dq,), shared, 0, spec, scale)


def backward_keys(keys, queries, order, full, active, dk, dv, shared, *, spec, scale):
    """Grid (tile of keys, key head, row of the batch), arguments as of backward_queries."""
    _backward(keys, queries, (order, full, active), (dk, dv), shared, 1, spec, scale)


def _backward(kept, others, schedule, results, shared, axis, spec, scale):
    """The body of both kernels. axis: of the queries, in a tile of scores."""
    order, full, active = schedule
    tile, head, b, role = (jax.lax.axis_index(name) for name in ("tile", "head", "row", WARPGROUP))
    tile = tile if axis else kept[0].shape[1] // _WIDTH - 1 - tile                # under a causal mask longest first
    heads, (stages, block) = (kept[0].shape[2], others[0].shape[2]), shared.others[0].shape[:2]
    group = max(heads[1] // heads[0], 1)                                          # heads of the others for each head

    @pl.when(role == COMPUTE)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        for i in range(COMPUTE):
            part = _part(kept, b, head, pl.ds(tile * _WIDTH + i * ROWS, ROWS))
            for source, target in zip(part[:2], shared.kept[:2], strict=True):
                plgpu.copy_gmem_to_smem(source, target.at[i], shared.kept_ready)
        for source, target in zip(_part(kept, b, head, pl.ds(tile * _WIDTH, _WIDTH))[2:], shared.kept[2:], strict=True):
            plgpu.copy_gmem_to_smem(source, target, shared.kept_ready)
        first = jax.lax.div(head * heads[1], jnp.int32(heads[0]))

        def fetch(i):
            at, which = jax.lax.div(i, jnp.int32(group)), first + jax.lax.rem(i, jnp.int32(group))
            return _part(others, b, which, pl.ds(order[b, tile, at] * block, block))
        stream(group * active[b, tile], stages, [(fetch, shared.others, shared.free, shared.ready)])

    @pl.when(role < COMPUTE)
    def _():
        plgpu.set_max_registers(240, action="increase")
        plgpu.barrier_wait(shared.kept_ready)
        own = *(x.at[role] for x in shared.kept[:2]), *(x.at[:, pl.ds(role * ROWS, ROWS)] for x in shared.kept[2:])
        step = lambda mask, i, sums: _step(mask, i, sums, own, shared, axis, spec, scale)
        sums = [mosaic_gpu.full((ROWS, kept[0].shape[3]), 0.0, TILE)] * len(results)
        sums = jax.lax.fori_loop(0, group * full[b, tile], functools.partial(step, False), sums)
        sums = jax.lax.fori_loop(group * full[b, tile], group * active[b, tile], functools.partial(step, True), sums)
        tokens = pl.ds(tile * _WIDTH + role * ROWS, ROWS)
        for result, total, factor, through in zip(results, sums, (scale, 1.0), own, strict=False):
            mosaic_gpu.store(factor * total, result.at[b, tokens, head], through)


def _part(side, b, head, tokens):
    """References to these tokens of a side, of one head."""
    first, second, info, *numbers = side
    return (first.at[b, tokens, head], second.at[b, tokens, head], info.at[b, :, tokens],
            *(x.at[b, head, :, tokens] for x in numbers))


def _step(mask, i, sums, own, shared, axis, spec, scale):
    """The sums with the share of one block of the others added."""
    slot, shape, dtype = i & (shared.others[0].shape[0] - 1), (ROWS, shared.others[0].shape[1]), own[0].dtype
    other = [x.at[slot] for x in shared.others]
    queries, keys = (own, other) if axis == 0 else (other, own)
    number = lambda which: along(axis, queries[3].at[which], shape)
    plgpu.barrier_wait(shared.ready.at[slot])

    def matmuls(s, dp, da, *db):
        s.add(own[0], other[0].T)
        if not mask:                                   # else registers would not suffice
            dp.add(own[1], other[1].T)
        capped, factor = scores(s.get(pending=0 if mask else 1), spec, scale)
        exponent = capped * factor - number(0)
        if mask:
            exponent = hide(spec.mask, exponent, (queries[2], axis), (keys[2], 1 - axis))
            dp.add(own[1], other[1].T)
        p = jnp.exp2(exponent)
        slope = p * cap_slope(capped, spec.soft_cap)
        for total in db:
            total.add(p.astype(dtype), other[1])
        ds = slope * (dp.get(pending=len(db)) - number(1))
        da.add(ds.astype(dtype), other[0])
        plgpu.commit_smem()                            # what was loaded comes before the copies that follow
        return [total.get() for total in (da, *db)]
    sums = mosaic_gpu.accumulate(matmuls, shape, shape, *sums)
    plgpu.barrier_arrive(shared.free.at[slot])
    return sums
