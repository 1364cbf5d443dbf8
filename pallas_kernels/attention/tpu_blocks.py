"""Sizes of the TPU kernels' blocks, by generation and head size.

To choose them again: `python -m experiments.tune_kernels`, which prints SIZES as it should be.
"""
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import tpu_chips
from pallas_kernels.mosaic import LANES


class Blocks(NamedTuple):
    """How one kernel cuts its work.

    Attributes:
      q, k: tokens of a pair's block of queries and of keys.
      chunk: keys that are computed at a time. Divides k.
      rows: queries that are computed at a time. Divides q.
    """
    q: int
    k: int
    chunk: int
    rows: int


_NARROW = Blocks(2048, 2048, 256, 512)
_WIDE = Blocks(2048, 2048, 512, 512)
_BACK = Blocks(2048, 2048, 256, 1024)
_SMALL = Blocks(1024, 1024, 256, 1024)          # for 16 MiB of vector memory
# by op, generation and native head size, for bfloat16
SIZES = {
    "forward": {
        "v4": {64: _NARROW, 128: _NARROW, 256: _NARROW}, "v5e": {64: _NARROW, 128: _NARROW, 256: _NARROW},
        "v5p": {64: _NARROW, 128: _NARROW, 256: _NARROW}, "v6e": {64: _WIDE, 128: _WIDE, 256: _WIDE},
        "tpu7x": {64: _WIDE, 128: _WIDE, 256: _WIDE}},
    "backward": {name: dict.fromkeys((64, 128, 256), _SMALL if name == "v4" else _BACK) for name in tpu_chips.CHIPS},
}
# float32 products take six passes of the matrix unit, and a program as much longer
FLOAT32 = {"forward": Blocks(512, 512, 256, 512), "backward": Blocks(512, 512, 256, 256)}
ELSEWHERE = "v5e"                # stands in for chips that SIZES does not know, and for none


def choose(op: str, dtype, head_size: int, lengths: tuple[int, int], block: int = 0) -> Blocks:
    """Sizes for the chip a program is traced for, never much longer than (T, S).

    op: forward or backward. block: tokens, in place of q and k; 0 is the table's own.
    """
    sizes = SIZES[op].get(tpu_chips.current()) or SIZES[op][ELSEWHERE]
    best = FLOAT32[op] if jnp.dtype(dtype) == jnp.float32 else sizes[min(native_head_size(head_size), 256)]
    q, k = (min(_whole(block or best_size), _whole(length, best.chunk if length > best.chunk else LANES))
            for best_size, length in zip((best.q, best.k), lengths, strict=True))
    return Blocks(q, k, math.gcd(best.chunk, k), math.gcd(best.rows, q))


def native_head_size(size: int) -> int:
    """The head size that kernels compute with: 64, or a multiple of 128."""
    return 64 if size <= 64 else _whole(size)


def _whole(size, unit=LANES):
    return pl.cdiv(size, unit) * unit
