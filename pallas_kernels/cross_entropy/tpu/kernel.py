"""Cross-entropy on TPU: Pallas Mosaic kernels that never leave an array of logits in HBM, on any number of columns.

Forward: each block of tokens stays in VMEM while the head streams past it. Backward: one kernel, in which each block of
the head's columns stays while the tokens stream past it. It computes the logits again, so that it takes three matmuls
where the forward takes one. dhead is summed in VMEM and dx in HBM, in float32.

On a CPU the same kernels run interpreted, as attention's do: slow, exact, for tests. bodies.py holds the kernels,
sizes.py the sizes.
"""
import functools

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import mosaic_tpu, tpu_chips
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.cross_entropy.tpu import bodies as tpu_bodies
from pallas_kernels.cross_entropy.tpu import sizes as tpu_sizes
from pallas_kernels.mosaic_tpu import LANES, call, like

_ONCE = pl.Buffered(1)           # blocks that stay for long are worth no second buffer


def why_not(x, head, spec: CrossEntropySpec, platform: str) -> str | None:
    """The reason why this call cannot be, or None."""
    if reason := mosaic_tpu.why_not(x, platform):
        return reason
    if x.dtype not in (jnp.bfloat16, jnp.float32) or head.dtype != x.dtype:
        return f"takes bfloat16 or float32 alone, not {x.dtype} hidden states with a {head.dtype} head"
    if not all(choose((*x.shape, head.shape[1]), x.dtype, spec.chunk)
               for choose in (tpu_sizes.forward, tpu_sizes.backward)):
        return f"has no room in vector memory for hidden states of size {x.shape[1]}"
    return None


def forward(x, head, targets, spec: CrossEntropySpec):
    """(score, lse), each float32 [M]; see reference.forward."""
    M, V = x.shape[0], head.shape[1]
    blocks = tpu_sizes.forward((*x.shape, V), x.dtype, spec.chunk)
    x, head, targets = _padded(x, blocks), _padded_rows(head), _row(targets, blocks)
    row = pl.BlockSpec((1, blocks.tokens), lambda m, v: (0, m))
    a_chunk, per_lane = (blocks.tokens, blocks.chunk), (blocks.tokens, LANES)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=0,
        grid=(x.shape[0] // blocks.tokens, pl.cdiv(V, blocks.columns)),
        in_specs=[pl.BlockSpec((blocks.tokens, x.shape[1]), lambda m, v: (m, 0), pipeline_mode=_ONCE),
                  pl.BlockSpec((x.shape[1], blocks.columns), lambda m, v: (0, v)), row],
        out_specs=[row, row],
        scratch_shapes=[*[pltpu.VMEM(a_chunk, jnp.float32)] * 2, pltpu.VMEM(per_lane, jnp.int32),
                        *[pltpu.VMEM(per_lane, jnp.float32)] * 3])
    pair = call(functools.partial(tpu_bodies.forward, V=V, spec=spec), grid, "parallel arbitrary",
                [like(x, targets.shape, jnp.float32)] * 2, [x, head, targets], vmem=tpu_sizes.WITH_SPILLS)
    return tuple(row[0, :M] for row in pair)


def backward(x, head, targets, spec: CrossEntropySpec, lse, cotangent):
    """(dx [M, D], dhead [D, V]); see reference.backward."""
    (M, D), V, dtype = x.shape, head.shape[1], x.dtype
    blocks = tpu_sizes.backward((M, D, V), dtype, spec.chunk)
    x, head = _padded(x, blocks), _padded_rows(head)
    row = pl.BlockSpec((1, blocks.tokens), lambda core, v, m: (0, m))
    count = pl.cdiv(V, blocks.columns)
    chip = tpu_chips.CHIPS.get(tpu_chips.current())
    cores = min(chip.cores if chip else 1, count)
    each = pl.cdiv(count, cores)
    columns = pl.BlockSpec((x.shape[1], blocks.columns), pipeline_mode=_ONCE,
                           index_map=lambda core, v, m: (0, jnp.minimum(core * each + v, count - 1)))
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    a_chunk, per_lane = (blocks.tokens, blocks.chunk), (blocks.tokens, LANES)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=0,
        grid=(cores, each, x.shape[0] // blocks.tokens),
        in_specs=[pl.BlockSpec((blocks.tokens, x.shape[1]), lambda core, v, m: (m, 0)), columns, *[row] * 4, anywhere],
        out_specs=[anywhere, columns],
        scratch_shapes=[*[pltpu.VMEM(a_chunk, jnp.float32)] * 2, pltpu.VMEM((blocks.tokens, blocks.columns), dtype),
                        pltpu.VMEM((x.shape[1], blocks.columns), jnp.float32),
                        pltpu.VMEM((tpu_sizes.RING, blocks.tokens, blocks.slab), jnp.float32),
                        pltpu.VMEM(per_lane, jnp.int32), pltpu.VMEM((3, *per_lane), jnp.float32),
                        *[pltpu.SemaphoreType.DMA((tpu_sizes.RING,))] * 2])
    zeros = jnp.zeros_like(x, jnp.float32, shape=(cores, *x.shape))
    operands = [x, head, *(_row(a, blocks) for a in (targets, lse, *cotangent)), zeros]
    dx, dhead = call(functools.partial(tpu_bodies.backward, V=V, spec=spec, blocks=blocks), grid,
                     "parallel arbitrary arbitrary",
                     [like(x, zeros.shape, jnp.float32), like(head, head.shape, dtype)], operands, {6: 0},
                     vmem=tpu_sizes.WITH_SPILLS)
    return dx.sum(0).astype(dtype)[:M, :D], dhead[:D]


def _padded(x, blocks):
    """[M, D] with zeros to whole blocks of tokens and whole lanes."""
    return jnp.pad(x, ((0, -x.shape[0] % blocks.tokens), (0, -x.shape[1] % LANES)))


def _padded_rows(head):
    return jnp.pad(head, ((0, -head.shape[0] % LANES), (0, 0)))


def _row(x, blocks):
    """[M] -> [1, M], zeros to whole blocks."""
    return jnp.pad(x, (0, -x.shape[0] % blocks.tokens))[None]
