"""Sizes of the TPU kernels' blocks, by generation and head size."""
from typing import NamedTuple

from jax.experimental import pallas as pl

from pallas_kernels import tpu_chips
from pallas_kernels.mosaic import LANES


class Blocks(NamedTuple):
    """How one kernel cuts its work.

    Attributes:
      q, k: tokens of a pair's block of queries and of keys.
      chunk: keys that are computed at a time.
    """
    q: int
    k: int
    chunk: int


FORWARD = {"v5e": {128: Blocks(512, 512, 256)}}
BACKWARD = {"v5e": {128: Blocks(512, 512, 256)}}
ELSEWHERE = "v5e", 128           # where the tables above say nothing


def choose(table, head_size: int, lengths: tuple[int, int], block: int = 0) -> Blocks:
    """The entry of FORWARD or BACKWARD for the chip a program is traced for, never much longer than (T, S).

    block: tokens, in place of q and k; 0 is the table's own.
    """
    sizes = table.get(tpu_chips.current()) or table[ELSEWHERE[0]]
    best = sizes.get(native_head_size(head_size)) or sizes[ELSEWHERE[1]]
    q, k = (min(_whole(block or best_size), _whole(length))
            for best_size, length in zip((best.q, best.k), lengths, strict=True))
    return Blocks(q, k, min(best.chunk, k))


def native_head_size(size: int) -> int:
    """The head size that kernels compute with: 64, or a multiple of 128."""
    return 64 if size <= 64 else _whole(size)


def _whole(size):
    return pl.cdiv(size, LANES) * LANES
