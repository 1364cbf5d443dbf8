"""The backward kernels for Hopper: one for dq, one for dk and dv, each the other with queries and keys exchanged.

A thread block keeps 128 queries, or keys, and takes them through the blocks of the other side that its plan lists, FULL
ones first. Each gradient is summed by one warpgroup in one order: deterministic, with no atomics and no copies of keys
for the query heads that share them, in return for computing scores twice. As rows are global, so is every weight.

A side, in global or shared memory, is (k, v, tokens) or (q, dout, tokens, numbers): scores are made of the first of
either, dP = dout v^T of the second; tokens are positions and segments, numbers are log2(e) lse and delta.
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
from pallas_kernels.attention.spec import AttentionSpec, Rows, cap_slope
from pallas_kernels.mosaic_gpu import TILE, WARPGROUP

_WIDTH = COMPUTE * ROWS          # tokens that a thread block keeps


class _Shared(NamedTuple):
    """What shared memory holds: the side that is kept, a few blocks of the other, and barriers.

    kept_ready, ready: the side, a block, is there to be read. free: the block has been read.
    """
    kept: tuple[jax.Ref, ...]
    others: tuple[jax.Ref, ...]
    kept_ready: jax.Ref
    ready: jax.Ref
    free: jax.Ref


def grads(q, k, v, tokens, spec: AttentionSpec, rows: Rows):
    """(dq, dk, dv) as reference.backward."""
    lse = LOG2E * jnp.where(jnp.isfinite(rows.lse), rows.lse, 0.0)        # where it is -inf all is masked: any will do
    numbers = blocks.pad(jnp.stack((lse, rows.delta)).transpose(1, 3, 0, 2), 3, _WIDTH)                     # B N 2 T
    of_queries, of_keys = (blocks.pad_tokens(x, _WIDTH) for x in tokens)
    padded = lambda *arrays: (blocks.pad(x, 1, _WIDTH) for x in arrays)
    queries = *padded(q, rows.dout.astype(q.dtype)), jnp.stack(of_queries, 1), numbers
    keys = *padded(k, v), jnp.stack(of_keys, 1)
    relations = functools.partial(blocks.relations, spec.mask, of_queries, of_keys)
    # with wider blocks registers would not suffice
    block = 64 if spec.soft_cap else 2**13 // q.shape[3]
    dq, = _call(backward_queries, queries, keys, blocks.schedule(relations(_WIDTH, block)), block, spec, 1)
    plan = blocks.schedule(relations(64, _WIDTH).swapaxes(1, 2))
    dk, dv = _call(backward_keys, keys, queries, plan, 64, spec, 2)
    return dq[:, :q.shape[1]], dk[:, :k.shape[1]], dv[:, :k.shape[1]]


def _call(kernel, kept, others, plan, block, spec, results):
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
        {"tile": length // _WIDTH, "head": heads, "row": B}, COMPUTE + 1, [kept, others, *plan])


def backward_queries(queries, keys, order, full, active, dq, shared, *, spec, scale):
    """Grid (tile of queries, head, row of the batch). queries, keys: sides, BTNH and BSKH, tokens [B, 2, .] and numbers
    [B, N, 2, T]; order [B, tiles, blocks], full, active [B, tiles]: a Schedule. All of it in global memory.
    """
    _backward(queries, keys, (order, full, active), (dq,), shared, 0, spec, scale)


def backward_keys(keys, queries, order, full, active, dk, dv, shared, *, spec, scale):
    """The same with a grid over tiles of keys."""
    _backward(keys, queries, (order, full, active), (dk, dv), shared, 1, spec, scale)


def _backward(kept, others, plan, results, shared, axis, spec, scale):
    """axis: of the queries, in a tile of scores."""
    order, full, active = plan
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
        mine = *(x.at[role] for x in shared.kept[:2]), *(x.at[:, pl.ds(role * ROWS, ROWS)] for x in shared.kept[2:])
        step = lambda mask, i, sums: _step(mask, i, sums, mine, shared, axis, spec, scale)
        sums = [mosaic_gpu.full((ROWS, kept[0].shape[3]), 0.0, TILE)] * len(results)
        sums = jax.lax.fori_loop(0, group * full[b, tile], functools.partial(step, False), sums)
        sums = jax.lax.fori_loop(group * full[b, tile], group * active[b, tile], functools.partial(step, True), sums)
        here = pl.ds(tile * _WIDTH + role * ROWS, ROWS)
        for result, total, factor, through in zip(results, sums, (scale, 1.0), mine, strict=False):
            mosaic_gpu.store(factor * total, result.at[b, here, head], through)


def _part(side, b, head, tokens):
    """Some tokens of a side, of one head."""
    first, second, numbers, *more = side
    return (first.at[b, tokens, head], second.at[b, tokens, head], numbers.at[b, :, tokens],
            *(x.at[b, head, :, tokens] for x in more))


def _step(mask, i, sums, mine, shared, axis, spec, scale):
    """Adds to the sums what one block of the others gives."""
    slot, shape, dtype = i & (shared.others[0].shape[0] - 1), (ROWS, shared.others[0].shape[1]), mine[0].dtype
    other = [x.at[slot] for x in shared.others]
    queries, keys = (mine, other) if axis == 0 else (other, mine)
    number = lambda which: along(axis, queries[3].at[which], shape)
    plgpu.barrier_wait(shared.ready.at[slot])

    def matmuls(s, dp, da, *db):
        s.add(mine[0], other[0].T)
        if not mask:                                   # else registers would not suffice
            dp.add(mine[1], other[1].T)
        capped, factor = scores(s.get(pending=0 if mask else 1), spec, scale)
        exponent = capped * factor - number(0)
        if mask:
            exponent = hide(spec.mask, exponent, (queries[2], axis), (keys[2], 1 - axis))
            dp.add(mine[1], other[1].T)
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
