"""Pieces that the kernels share: layouts outside of them, small operations inside."""
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import masks
from pallas_kernels.attention import blocks
from pallas_kernels.attention.tpu import pairs
from pallas_kernels.attention.tpu.sizes import native_head_size
from pallas_kernels.masks import TokenInfo
from pallas_kernels.mosaic_tpu import LANES, as_columns

LOW = -1e30                      # the maximum of no scores: finite, so that exp2(-inf - LOW) is 0 and not NaN
LOG2_E = math.log2(math.e)


def heads_first(x, block):
    """BTNH -> BNTH, padded to whole blocks and a native head dim; a number of each row, BTN -> BN1T."""
    x = blocks.pad(x, 1, block)
    if x.ndim == 3:
        return x.swapaxes(1, 2)[:, :, None]
    return blocks.pad(x, 3, native_head_size(x.shape[3])).swapaxes(1, 2)


def heads_last(x, length, head_dim):
    """BNTH -> BTNH without the padding."""
    return x[:, :, :length, :head_dim].swapaxes(1, 2)


def stacked(info):
    """Positions and segments in one array, int32 [B, 2, T]."""
    return jnp.stack(info, 1)


def on_kind(kind, step):
    """Runs step(kind), compiled for each kind of pair on its own; nothing for EMPTY."""
    for known in (masks.FULL, pairs.LOWER, masks.PARTIAL):
        pl.when(kind == known)(lambda known=known: step(known))


def info_rows(info):
    """TokenInfo [1, n] from positions and segments [2, n]."""
    return TokenInfo(info[0:1], info[1:2])


def info_columns(info, width=1):
    """TokenInfo [n, width] of equal columns from positions and segments [2, n]."""
    return TokenInfo(*(jnp.tile(as_columns(x), (1, pl.cdiv(width, LANES)))[:, :width] for x in info_rows(info)))


def as_rows(x, y):
    """Two arrays [128, 128] of equal columns -> a column of each as a row [1, 128], by one transpose."""
    first = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) == 0
    both = jnp.where(first, x, y).T
    return both[:1], both[1:2]


def staged(stages, tiles, apart):
    """Takes every tile through the stages, each given what the one before returned, as a software pipeline.

    apart: how many tiles later a stage is than the one before it. 0 leaves it to the scheduler what to overlap.
    """
    passed = {}
    for t in range(len(tiles) + apart * (len(stages) - 1)):
        for lag, stage in enumerate(stages):
            at = t - apart * lag
            if 0 <= at < len(tiles):
                passed[at] = stage(*tiles[at], *passed.pop(at, ()))
