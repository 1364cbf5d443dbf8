"""Sizes of the TPU kernels' blocks: the largest that fit a core's vector memory and keep its program short.

In the forward tokens stay while the head streams past them, so that a longer block of them means less traffic with HBM.
In the backward columns stay, and tokens and their gradients stream: there it is a wider block of columns.
"""
import itertools
from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import tpu_chips
from pallas_kernels.mosaic_tpu import LANES

RING = 4                         # slabs of dx on their way between HBM and VMEM
VMEM = 60 * 2**20                # bytes of blocks and scratch, at most
_SHARE = 3 / 4                   # of a chip's vector memory that these take, at most
WITH_SPILLS = 80                 # 2^20 bytes that a kernel may take; spills of 9 were seen
_PROGRAM = 2**32                 # multiply-adds that are unrolled into one step: about 65000 cycles of a 128-wide chip
_PASSES = {2: 1, 4: 6}           # of bfloat16 that a matmul takes, by bytes of its operands' numbers


class Blocks(NamedTuple):
    """How one kernel cuts its work.

    Attributes:
      tokens, columns: of a block of x and of the head.
      chunk: columns whose logits are computed at a time.
      slab: of D, in which the backward computes gradients.
    """
    tokens: int
    columns: int
    chunk: int
    slab: int


def forward(shape, dtype, most_tokens: int) -> Blocks | None:
    """Blocks for (M, D, V); None where hidden states are too large."""
    sizes = itertools.product((1024, 512, 256, 128), (512, 256))

    def memory(b):
        return _D(shape) * width * (b.tokens + 2 * b.columns) + 4 * b.tokens * (b.columns + 4 * LANES)

    width = jnp.dtype(dtype).itemsize
    return _largest([Blocks(m, v, v // 2, 0) for m, v in sizes], memory, shape, width, most_tokens)


def backward(shape, dtype, most_tokens: int) -> Blocks | None:
    """Blocks for (M, D, V); None where hidden states are too large."""
    slabs = [n for n in range(1024, 0, -LANES) if _D(shape) % n == 0]
    sizes = itertools.product((*range(2048, 0, -256), 128), (512, 256, 128), slabs)

    def memory(b):
        head, x = _D(shape) * b.columns * (2 * width + 4), 2 * _D(shape) * b.tokens * width
        return head + x + b.tokens * (4 * RING * b.slab + width * b.columns + 8 * b.chunk + 16 * LANES)

    width = jnp.dtype(dtype).itemsize
    return _largest([Blocks(m, v, min(v, 256), slab) for v, m, slab in sizes], memory, shape, width, most_tokens)


def _largest(candidates, memory, shape, width, most_tokens):
    """The candidate with the most logits, of equal ones the first, among those not much larger than the problem."""
    M, _, V = shape
    chip = tpu_chips.CHIPS.get(tpu_chips.current())
    most = min(VMEM, _SHARE * chip.vmem * 2**20) if chip else VMEM
    tokens, columns = _whole(min(M, most_tokens), LANES), _whole(V, 2 * LANES)
    fitting = [b for b in candidates if b.tokens <= tokens and b.columns <= columns and memory(b) <= most
               and _PASSES[width] * b.tokens * b.columns * _D(shape) <= _PROGRAM]
    return max(fitting, key=lambda b: b.tokens * b.columns, default=None)


def _D(shape):
    return _whole(shape[1], LANES)


def _whole(n, block):
    return pl.cdiv(n, block) * block
