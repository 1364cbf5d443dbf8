"""Sizes of the TPU kernels' blocks, by generation and head dim.

To choose them again: `python -m experiments.bench.tune_kernels`, which prints SIZES as it should be.
"""
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import tpu_chips
from pallas_kernels.mosaic_tpu import LANES


class Blocks(NamedTuple):
    """How one kernel cuts its work.

    Attributes:
      q, k: tokens of a block of queries and of a block of keys.
      chunk: keys that are computed at a time, and sides of the squares that a diagonal is cut into. Divides k.
      rows: queries that are computed at a time. Divides q.
      wide: keys that the forward kernel computes at a time in a FULL pair, a multiple of chunk; 0 is chunk.
    """
    q: int
    k: int
    chunk: int
    rows: int
    wide: int = 0


# by op, generation and native head dim, for bfloat16; behind each the TFLOP/s that its schedule predicts under a
# causal mask, 8 heads, at 8192 and 32768 tokens (`python -m experiments.bench.tune_kernels`)
SIZES = {
    ("forward", "v4", 128): Blocks(1024, 1024, 256, 512, 512),      # 161, 178; larger ones do not fit 16 MiB
    ("forward", "v5e", 64): Blocks(2048, 2048, 256, 512, 512),      # 85, 92; no other was tried
    ("forward", "v5e", 128): Blocks(2048, 2048, 256, 512, 512),     # 171, 184
    ("forward", "v5p", 128): Blocks(2048, 2048, 256, 512, 512),     # 396, 426
    ("forward", "v6e", 64): Blocks(2048, 2048, 256, 512, 512),      # 207, 228
    ("forward", "v6e", 128): Blocks(2048, 2048, 256, 512, 512),     # 387, 427
    ("forward", "v6e", 256): Blocks(2048, 2048, 256, 512, 512),     # 600, 661; no other was tried
    ("forward", "tpu7x", 128): Blocks(2048, 2048, 256, 512, 512),   # 462, 500; no other was tried
    ("backward", "v4", 128): Blocks(1024, 1024, 256, 1024),         # 231, 246; larger ones do not fit 16 MiB
    ("backward", "v5e", 128): Blocks(2048, 2048, 256, 1024),        # 182, 189
    ("backward", "v5p", 128): Blocks(2048, 2048, 256, 1024),        # 425, 441; no other was tried
    ("backward", "v5p", 256): Blocks(2048, 2048, 256, 1024),        # 427, 445
    ("backward", "v6e", 64): Blocks(2048, 2048, 256, 1024),         # 282, 297
    ("backward", "v6e", 128): Blocks(2048, 2048, 256, 1024),        # 514, 543
    ("backward", "v6e", 256): Blocks(2048, 2048, 256, 1024),        # 763, 820
    ("backward", "tpu7x", 128): Blocks(2048, 2048, 256, 1024),      # 586, 623
}
# float32 products take six passes of the matrix unit, and a program as much longer
FLOAT32 = {"forward": Blocks(512, 512, 256, 512), "backward": Blocks(512, 512, 256, 256)}
ELSEWHERE = "v5e", 128           # generation and head dim that stand in for what SIZES does not know


def choose(op: str, dtype, head_dim: int, lengths: tuple[int, int], block: int = 0) -> Blocks:
    """Sizes for the chip a program is traced for, never much longer than (T, S).

    op: forward or backward. block: tokens, in place of q and k; 0 is as in SIZES.
    """
    chip = tpu_chips.current()
    tuned = ((op, *at) for at in ((chip, native_head_size(head_dim)), (chip, 128), ELSEWHERE))
    best = FLOAT32[op] if jnp.dtype(dtype) == jnp.float32 else next(SIZES[at] for at in tuned if at in SIZES)
    q, k = (min(_whole(block or best_size), _whole(length, best.chunk if length > best.chunk else LANES))
            for best_size, length in zip((best.q, best.k), lengths, strict=True))
    return Blocks(q, k, math.gcd(best.chunk, k), math.gcd(best.rows, q), math.gcd(best.wide or best.chunk, k))


def native_head_size(size: int) -> int:
    """The head dim that kernels compute with: 64, or a multiple of 128."""
    return 64 if size <= 64 else _whole(size)


def _whole(size, unit=LANES):
    return pl.cdiv(size, unit) * unit
