"""Pieces of the forward and backward kernels for Hopper: roles, the stream of copies, and arithmetic of scores."""
import math

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import masks, mosaic_gpu
from pallas_kernels.masks import TokenInfo

COMPUTE = 2                      # warpgroups that compute; one more copies
ROWS = 64                        # of queries, or keys, that one of them keeps
LOG2E = math.log2(math.e)


def stream(steps, stages, copies):
    """Fills the stages of shared memory, each as soon as it is free, and ends when all have been read.

    copies: (fetch, targets, free, ready), in the order in which they are needed: fetch(step) names sources in global
    memory for targets [stages, ...]; the barriers say that a stage has been read, and that it is there to be.
    """
    @pl.loop(0, steps + stages)
    def _(i):
        slot = i & (stages - 1)
        for fetch, targets, free, ready in copies:
            pl.when(i >= stages)(lambda free=free: plgpu.barrier_wait(free.at[slot]))

            @pl.when(i < steps)
            def _(fetch=fetch, targets=targets, ready=ready):
                for source, target in zip(fetch(i), targets, strict=True):
                    plgpu.copy_gmem_to_smem(source, target.at[slot], ready.at[slot])


def scores(s, spec, scale):
    """(scores, capped; the factor that makes them exponents of 2), given s = q k^T."""
    if not spec.soft_cap:
        return s, scale * LOG2E
    # cap tanh(x / cap) by exponentials, with one division: the hardware's own tanh is good to 11 bits alone
    part = 1.0 / (jnp.exp2((2 * LOG2E * scale / spec.soft_cap) * s) + 1.0)
    return spec.soft_cap - (2 * spec.soft_cap) * part, LOG2E


def hide(mask, s, queries, keys):
    """The tile of scores s, with -inf where queries do not see keys.

    queries, keys: (reference to their positions and segments [2, tokens], their axis in the tile).
    """
    info = lambda ref, axis: TokenInfo(*(along(axis, ref.at[i], s.shape) for i in range(2)))
    first, *others = _conditions(mask)                 # one at a time, or registers would not suffice
    s = jnp.where(masks.sees(first, info(*queries), info(*keys)), s, -jnp.inf)
    for condition in others:
        s = jnp.where(condition.visible(info(*queries), info(*keys)), s, -jnp.inf)
    return s


def _conditions(mask):
    """The masks that a mask is the conjunction of."""
    return [*_conditions(mask.left), *_conditions(mask.right)] if isinstance(mask, masks.And) else [mask]


def along(axis, ref, shape):
    """The numbers in ref, one for each row (axis 0) or column (axis 1), as a tile of this shape."""
    layout, spread = ((mosaic_gpu.BY_ROW, mosaic_gpu.by_row), (mosaic_gpu.BY_COLUMN, mosaic_gpu.by_column))[axis]
    return spread(mosaic_gpu.load(ref, layout), shape)
