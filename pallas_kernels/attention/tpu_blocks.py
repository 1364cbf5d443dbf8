"""Sizes of the TPU kernels' blocks, by generation and head size."""
import math
from typing import NamedTuple

from jax.experimental import pallas as pl

from pallas_kernels import tpu_chips

LANES = 128                      # blocks are multiples of this


class Blocks(NamedTuple):
    """How one kernel cuts its work.

    Attributes:
      q, k: tokens of a pair's block of queries and of keys.
      chunk: keys that are computed at a time. Divides k.
      rows: queries that are computed at a time. Divides q; 0 is all.
    """
    q: int
    k: int
    chunk: int
    rows: int = 0


_NARROW = {128: Blocks(2048, 2048, 256, 512)}                 # matrix units of 128 x 128
_WIDE = {128: Blocks(2048, 2048, 512, 512)}                   # 256 x 256
FORWARD = {"v4": _NARROW, "v5e": _NARROW, "v5p": _NARROW, "v6e": _WIDE, "tpu7x": _WIDE}
BACKWARD = {"v5e": {128: Blocks(512, 512, 256)}}
FLOAT32 = 512                    # tokens of a block: products take six passes, and six times the instructions
ELSEWHERE = "v5e", 128           # where the tables above say nothing


def choose(table, head_size: int, lengths: tuple[int, int], block: int = 0) -> Blocks:
    """The entry of FORWARD or BACKWARD for the chip a program is traced for, never much longer than (T, S).

    block: tokens, in place of q and k; 0 is the table's own.
    """
    sizes = table.get(tpu_chips.current()) or table[ELSEWHERE[0]]
    best = sizes.get(native_head_size(head_size)) or sizes[ELSEWHERE[1]]
    q, k = (min(_whole(block or best_size), _whole(length, best.chunk if length > best.chunk else LANES))
            for best_size, length in zip((best.q, best.k), lengths, strict=True))
    return Blocks(q, k, math.gcd(best.chunk, k), math.gcd(best.rows, q))


def native_head_size(size: int) -> int:
    """The head size that kernels compute with: 64, or a multiple of 128."""
    return 64 if size <= 64 else _whole(size)


def _whole(size, unit=LANES):
    return pl.cdiv(size, unit) * unit
