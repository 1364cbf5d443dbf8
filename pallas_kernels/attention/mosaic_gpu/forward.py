"""The forward kernel for Hopper: two warpgroups that compute, in turns, and one that copies.

A thread block takes 128 queries of one head, 64 for each computing warpgroup, through the blocks of keys that its
Schedule lists: PARTIAL ones first, as the first may have to be, then FULL ones, without mask work. FlashAttention-3's
schedule (arXiv 2407.08608): the scores of the next block are computed together with the weighted values of the last
one, the softmax of either warpgroup runs while the tensor cores serve the other, and weights stay in the registers.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import mosaic_gpu
from pallas_kernels.attention import blocks
from pallas_kernels.attention.mosaic_gpu.parts import COMPUTE, LOG2E, ROWS, hide, scores, stream
from pallas_kernels.attention.pair import Inputs, Pair
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.mosaic_gpu import BY_ROW, TILE, WARPGROUP

KEYS = 128                       # of a block
_LOW = -1e30                     # the highest score of a row that has seen no key: finite, as -inf - -inf is NaN


class _Shared(NamedTuple):
    """Shared memory: queries, a few blocks of keys and values, and positions and segments of both."""
    q: jax.Ref
    k: jax.Ref
    v: jax.Ref
    q_info: jax.Ref
    k_info: jax.Ref


class _Barriers(NamedTuple):
    """Barriers: q, k, v are there to be read; k_free, v_free: they have been read; turn: a warpgroup's, for matmuls."""
    q: jax.Ref
    k: jax.Ref
    v: jax.Ref
    k_free: jax.Ref
    v_free: jax.Ref
    turn: jax.Ref


def attend(x: Inputs, spec: AttentionSpec) -> Pair:
    """The pair (out, lse); see reference.forward."""
    (B, T, N, H), rows = x.q.shape, COMPUTE * ROWS
    infos = blocks.pad_info(x.q_info, rows), blocks.pad_info(x.k_info, KEYS)
    schedule = blocks.schedule(blocks.relations(spec.mask, *infos, rows, KEYS))
    q, k, v = blocks.pad(x.q, 1, rows), blocks.pad(x.k, 1, KEYS), blocks.pad(x.v, 1, KEYS)
    block, barrier, stages = functools.partial(mosaic_gpu.tiles, dtype=q.dtype), plgpu.Barrier, 256 // H
    shared = _Shared(block(COMPUTE, ROWS, H), block(stages, KEYS, H), block(stages, KEYS, H),
                     plgpu.SMEM((2, rows), jnp.int32), plgpu.SMEM((stages, 2, KEYS), jnp.int32))
    barriers = _Barriers(
        barrier(num_arrivals=COMPUTE + 1), barrier(num_arrivals=2, num_barriers=stages), barrier(num_barriers=stages),
        *[barrier(num_arrivals=COMPUTE, num_barriers=stages)] * 2, barrier(num_barriers=COMPUTE))
    out, lse = mosaic_gpu.call(
        functools.partial(forward, spec=spec, scale=spec.score_scale(H)),
        [jax.ShapeDtypeStruct(q.shape, spec.result_dtype(q)), jax.ShapeDtypeStruct((B, N, q.shape[1]), jnp.float32)],
        [shared, barriers], {"tile": q.shape[1] // rows, "head": N, "row": B}, COMPUTE + 1,
        [q, k, v, *(jnp.stack(info, 1) for info in infos), *schedule])
    return Pair(out[:, :T], lse[:, :, :T].swapaxes(1, 2))


def forward(q, k, v, q_info, k_info, order, full, active, out, lse, shared, barriers, *, spec, scale):
    """Grid (tile of queries, head, row of the batch). q, out BTNH; k, v BSKH; infos: positions and segments [B, 2, .];
    order [B, tiles, blocks], full, active [B, tiles]: a Schedule; lse [B, N, T]. All of it in global memory.
    """
    head, b, role = (jax.lax.axis_index(axis) for axis in ("head", "row", WARPGROUP))
    tile = q.shape[1] // (COMPUTE * ROWS) - 1 - jax.lax.axis_index("tile")           # under a causal mask longest first
    steps = jnp.maximum(active[b, tile], 1)                                          # without any: one that is EMPTY

    @pl.when(role == COMPUTE)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        start, of_keys = tile * COMPUTE * ROWS, jax.lax.div(head, jnp.int32(q.shape[2] // k.shape[2]))
        for i in range(COMPUTE):
            plgpu.copy_gmem_to_smem(q.at[b, pl.ds(start + i * ROWS, ROWS), head], shared.q.at[i], barriers.q)
        plgpu.copy_gmem_to_smem(q_info.at[b, :, pl.ds(start, COMPUTE * ROWS)], shared.q_info, barriers.q)
        block = lambda i: pl.ds(order[b, tile, steps - 1 - i] * KEYS, KEYS)
        stream(steps, shared.k.shape[0], [
            (lambda i: (k.at[b, block(i), of_keys], k_info.at[b, :, block(i)]), (shared.k, shared.k_info),
             barriers.k_free, barriers.k),
            (lambda i: (v.at[b, block(i), of_keys],), (shared.v,), barriers.v_free, barriers.v)])

    @pl.when(role < COMPUTE)
    def _():
        plgpu.set_max_registers(240, action="increase")
        plgpu.barrier_wait(barriers.q)
        masked = steps - jnp.minimum(full[b, tile], steps - 1)                       # the first is, whatever it is
        top, total, sums = _attend(role, steps, masked, shared, barriers, spec, scale)
        kept, seen = pl.ds((tile * COMPUTE + role) * ROWS, ROWS), total > 0
        total = jnp.where(seen, total, 1.0)
        mosaic_gpu.store(sums * mosaic_gpu.by_row(1.0 / total, sums.shape), out.at[b, kept, head], shared.q.at[role])
        lse[b, head, kept] = jnp.where(seen, (top + jnp.log2(total)) / LOG2E, -jnp.inf)


def _attend(role, steps, masked, shared, barriers, spec, scale):
    """(top, total, sums) of a warpgroup's queries after all steps, of which the first `masked` need the mask:

    log2 of the highest weight, the sum of weights in units of it, [rows], and of weighted values, [rows, H].
    """
    queries, dtype = shared.q.at[role], shared.q.dtype
    slot_of = lambda i: i & (shared.k.shape[0] - 1)
    keys = lambda i: shared.k.at[slot_of(i)].T

    def softmax(i, mask, top, total, s):
        """(weights, top, total) with the scores s of step i, from top and total before."""
        s, factor = scores(s, spec, scale)
        if mask:
            kept = shared.q_info.at[:, pl.ds(role * ROWS, ROWS)], 0
            s = hide(spec.mask, s, kept, (shared.k_info.at[slot_of(i)], 1))
            plgpu.commit_smem()                        # these reads come before the copies that follow
        plgpu.barrier_arrive(barriers.k_free.at[slot_of(i)])
        new_top = jnp.maximum(top, s.max(1) * factor)
        p = jnp.exp2(s * factor - mosaic_gpu.by_row(new_top, s.shape))
        return p, new_top, total * jnp.exp2(top - new_top) + p.sum(1)

    def step(mask, i, carry):
        """Adds the values of step i - 1, and takes the weights of step i."""
        sums, p, top, total = carry
        plgpu.barrier_wait(barriers.k.at[slot_of(i)])
        plgpu.barrier_wait(barriers.v.at[slot_of(i - 1)])
        plgpu.barrier_wait(barriers.turn.at[role])

        def matmuls(s, sums):
            s.add(queries, keys(i))
            sums.add(p, shared.v.at[slot_of(i - 1)])
            plgpu.barrier_arrive(barriers.turn.at[1 - role])
            new = softmax(i, mask, top, total, s.get(pending=1))
            # or the compiler would put weights where those of step i - 1, which it takes for spent, are still read
            return jax.lax.optimization_barrier((sums.get(), *new))
        sums, p, new_top, total = mosaic_gpu.accumulate(matmuls, (ROWS, KEYS), sums)
        plgpu.barrier_arrive(barriers.v_free.at[slot_of(i - 1)])
        return sums * mosaic_gpu.by_row(jnp.exp2(top - new_top), sums.shape), p.astype(dtype), new_top, total

    plgpu.barrier_wait(barriers.k.at[0])
    start = mosaic_gpu.full((ROWS,), _LOW, BY_ROW), mosaic_gpu.full((ROWS,), 0.0, BY_ROW)
    p, top, total = softmax(0, True, *start, mosaic_gpu.product(queries, keys(0)))
    carry = mosaic_gpu.full((ROWS, queries.shape[1]), 0.0, TILE), p.astype(dtype), top, total
    pl.when(role == 1)(lambda: plgpu.barrier_arrive(barriers.turn.at[0]))
    carry = jax.lax.fori_loop(1, masked, functools.partial(step, True), carry)
    sums, p, top, total = jax.lax.fori_loop(masked, steps, functools.partial(step, False), carry)
    last = slot_of(steps - 1)
    plgpu.barrier_wait(barriers.v.at[last])
    sums = mosaic_gpu.product(p, shared.v.at[last], sums)
    plgpu.barrier_arrive(barriers.v_free.at[last])
    pl.when(role == 0)(lambda: plgpu.barrier_wait(barriers.turn.at[0]))              # the last one, that nobody needs
    return top, total, sums
