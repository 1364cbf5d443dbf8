"""The backward kernels for Hopper: one for dq, one for dk and dv, each the other with queries and keys exchanged.

A thread block keeps 128 queries, or keys, and takes them through the blocks of the other side that its plan lists, FULL
ones first. Each gradient is summed by one warpgroup in one order: deterministic, with no atomics and no copies of keys
for the query heads that share them, in return for computing the scores twice. As rows are global, so is every weight.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import mosaic_gpu
from pallas_kernels.attention import tiles
from pallas_kernels.attention.gpu_mosaic_parts import COMPUTE, LOG2E, ROWS, along, scores, hide, stream
from pallas_kernels.attention.spec import AttentionSpec, Rows, cap_slope
from pallas_kernels.mosaic_gpu import TILE, WARPGROUP


class _Side(NamedTuple):
    """Queries or keys, in global memory and, in part, in shared memory.

    Attributes:
      a, b: q and dout, or k and v: what scores and dP = dout v^T are made of.
      tokens: their positions and segments.
      numbers: of queries alone: log2(e) lse, and delta.
    """
    a: jax.Ref
    b: jax.Ref
    tokens: jax.Ref
    numbers: jax.Ref | None = None


class _Barriers(NamedTuple):
    """kept, ready: what is kept, and a block of the other side, are there to be read. free: the block has been read."""
    kept: jax.Ref
    ready: jax.Ref
    free: jax.Ref


def grads(q, k, v, tokens, spec: AttentionSpec, rows: Rows):
    """(dq, dk, dv) as reference.backward."""
    width = COMPUTE * ROWS
    lse = LOG2E * jnp.where(jnp.isfinite(rows.lse), rows.lse, 0.0)         # where it is -inf all is masked: any will do
    numbers = tiles.pad(jnp.stack((lse, rows.delta)).transpose(1, 3, 0, 2), 3, width)                      # B N 2 T
    q_tokens, k_tokens = (tiles.pad_tokens(x, width) for x in tokens)
    padded = lambda *arrays: (tiles.pad(x, 1, width) for x in arrays)
    queries = _Side(*padded(q, rows.dout.astype(q.dtype)), jnp.stack(q_tokens, 1), numbers)
    keys = _Side(*padded(k, v), jnp.stack(k_tokens, 1))
    relations = functools.partial(tiles.relations, spec.mask, q_tokens, k_tokens)
    block = 64 if spec.soft_cap else 2**13 // q.shape[3]                   # with more registers would not suffice
    dq, = _call(for_queries, queries, keys, tiles.schedule(relations(width, block)), block, spec)
    dk, dv = _call(for_keys, keys, queries, tiles.schedule(relations(block, width).swapaxes(1, 2)), block, spec)
    return dq[:, :q.shape[1]], dk[:, :k.shape[1]], dv[:, :k.shape[1]]


def _call(kernel, kept, others, plan, block, spec):
    (B, length, heads, H), dtype, stages = kept.a.shape, kept.a.dtype, 2**15 // (block * kept.a.shape[3])

    def shared(side, copies, tokens):
        return _Side(*[mosaic_gpu.tiles(*copies, H, dtype=dtype)] * 2, plgpu.SMEM((*tokens[:-1], 2, tokens[-1]), jnp.int32),
                     None if side.numbers is None else plgpu.SMEM((*tokens[:-1], 2, tokens[-1]), jnp.float32))
    each = lambda side: 3 if side.numbers is None else 4                            # copies that make it complete
    scratch = [shared(kept, (COMPUTE, ROWS), (COMPUTE * ROWS,)), shared(others, (stages, block), (stages, block)),
               _Barriers(plgpu.Barrier(num_arrivals=2 * (COMPUTE - 1) + each(kept)),
                         plgpu.Barrier(num_arrivals=each(others), num_barriers=stages),
                         plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages))]
    return mosaic_gpu.call(
        functools.partial(kernel, spec=spec, scale=spec.score_scale(H)),
        [mosaic_gpu.like(kept.a, kept.a.shape, spec.result_dtype(kept.a))] * (1 if kept.numbers is not None else 2), scratch,
        {"tile": length // (COMPUTE * ROWS), "head": heads, "row": B}, COMPUTE + 1, [kept, others, *plan])


def for_queries(queries, keys, order, full, active, dq, *scratch, spec, scale):
    """Grid (tile of queries, head, row of the batch); see _Side. order [B, tiles, blocks], full, active [B, tiles]: a
    Schedule. All of it in global memory; the gradients BTNH, or BSKH.
    """
    _gradients(queries, keys, (order, full, active), (dq,), scratch, 0, spec, scale)


def for_keys(keys, queries, order, full, active, dk, dv, *scratch, spec, scale):
    """The same with a grid over tiles of keys."""
    _gradients(keys, queries, (order, full, active), (dk, dv), scratch, 1, spec, scale)


def _gradients(kept, others, plan, results, scratch, axis, spec, scale):
    """axis: of the queries, in a tile of scores."""
    (mine, stage, barriers), (order, full, active) = scratch, plan
    tile, head, b, role = (jax.lax.axis_index(axis) for axis in ("tile", "head", "row", WARPGROUP))
    tile = tile if axis else kept.a.shape[1] // (COMPUTE * ROWS) - 1 - tile         # under a causal mask longest first
    group = max(others.a.shape[2] // kept.a.shape[2], 1)                            # heads of the others for each head
    stages, block = stage.a.shape[:2]

    @pl.when(role == COMPUTE)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        of_others = jax.lax.div(head * others.a.shape[2], jnp.int32(kept.a.shape[2]))

        def fetch(i):
            step, one = jax.lax.div(i, jnp.int32(group)), of_others + jax.lax.rem(i, jnp.int32(group))
            return _part(others, b, one, pl.ds(order[b, tile, step] * block, block))
        start = tile * COMPUTE * ROWS
        for i in range(COMPUTE):
            for source, target in zip(_part(kept, b, head, pl.ds(start + i * ROWS, ROWS))[:2], mine, strict=False):
                plgpu.copy_gmem_to_smem(source, target.at[i], barriers.kept)
        for source, target in zip(_part(kept, b, head, pl.ds(start, COMPUTE * ROWS))[2:], mine[2:], strict=False):
            plgpu.copy_gmem_to_smem(source, target, barriers.kept)
        stream(group * active[b, tile], stages, [(fetch, [ref for ref in stage if ref is not None], barriers.free, barriers.ready)])

    @pl.when(role < COMPUTE)
    def _():
        plgpu.set_max_registers(240, action="increase")
        plgpu.barrier_wait(barriers.kept)
        at = pl.ds(role * ROWS, ROWS)
        here = _Side(mine.a.at[role], mine.b.at[role], mine.tokens.at[:, at],
                     None if mine.numbers is None else mine.numbers.at[:, at])
        step = lambda mask, i, sums: _step(mask, i, sums, here, stage, barriers, axis, spec, scale)
        sums = [mosaic_gpu.full((ROWS, kept.a.shape[3]), 0.0, TILE)] * len(results)
        sums = jax.lax.fori_loop(0, group * full[b, tile], functools.partial(step, False), sums)
        sums = jax.lax.fori_loop(group * full[b, tile], group * active[b, tile], functools.partial(step, True), sums)
        for result, total, factor in zip(results, sums, (scale, 1.0), strict=False):
            result[b, pl.ds((tile * COMPUTE + role) * ROWS, ROWS), head] = (factor * total).astype(result.dtype)


def _part(side, b, head, tokens):
    """Some tokens of a side, of one head."""
    parts = side.a.at[b, tokens, head], side.b.at[b, tokens, head], side.tokens.at[b, :, tokens]
    return parts if side.numbers is None else (*parts, side.numbers.at[b, head, :, tokens])


def _step(mask, i, sums, here, stage, barriers, axis, spec, scale):
    """Adds to the sums what one block of the others gives."""
    slot, shape = i & (stage.a.shape[0] - 1), (ROWS, stage.a.shape[1])
    other = _Side(*(None if ref is None else ref.at[slot] for ref in stage))
    sides = (here, other) if axis == 0 else (other, here)                           # queries, keys
    plgpu.barrier_wait(barriers.ready.at[slot])

    number = lambda i: along(axis, sides[0].numbers.at[i], shape)

    def matmuls(s, dp, da, *db):
        s.add(here.a, other.a.T)
        if not mask:                                   # else registers would not suffice
            dp.add(here.b, other.b.T)
        capped, factor = scores(s.get(pending=0 if mask else 1), spec, scale)
        exponent = capped * factor - number(0)
        if mask:
            exponent = hide(spec.mask, exponent, *((side.tokens, (axis + n) % 2) for n, side in enumerate(sides)))
            dp.add(here.b, other.b.T)
        p = jnp.exp2(exponent)
        slope = p * cap_slope(capped, spec.soft_cap)
        for total in db:
            total.add(p.astype(here.a.dtype), other.b)
        ds = slope * (dp.get(pending=len(db)) - number(1))
        da.add(ds.astype(here.a.dtype), other.a)
        plgpu.commit_smem()                            # what was loaded comes before the copies that follow
        return [total.get() for total in (da, *db)]
    sums = mosaic_gpu.accumulate(matmuls, shape, shape, *sums)
    plgpu.barrier_arrive(barriers.free.at[slot])
    return sums
