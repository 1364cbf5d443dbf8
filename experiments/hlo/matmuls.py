"""Floating-point operations of the matrix products of a compiled program."""

import functools
import math
import re

import numpy as np

from experiments.hlo.text import Computation, Instruction

_PRODUCTS = ("__cublas$", "__onednn$matmul")  # libraries' own, as targets of custom calls


def is_matmul(instruction: Instruction) -> bool:
    """Whether an instruction is a matrix product: a dot, a convolution or a library's."""
    return (
        instruction.opcode in ("dot", "convolution")
        or instruction.opcode == "custom-call"
        and instruction.target.startswith(_PRODUCTS)
    )


def flops(computation: Computation, instruction: Instruction) -> int:
    """FLOPs of one run of a matmul, 2 per product; products with padding or a dilation's zeros do not count."""
    left, right = (operand.shapes[0].dims for operand in computation.inputs(instruction)[:2])
    out = instruction.shapes[0]
    if instruction.opcode == "convolution":
        return 2 * _convolution(instruction, left, right, out.dims)
    contracted = instruction.attribute("lhs_contracting_dims")
    if contracted is None:  # cuBLAS has them in its settings; oneDNN's matmul: the last one
        contracted = instruction.setting("lhs_contracting_dimensions") or str(len(left) - 1)
    return 2 * out.elements * math.prod(left[int(dim)] for dim in re.findall(r"\d+", contracted))


def _convolution(instruction, left, right, out):
    """Products of a convolution. TPU programs have one for every dot, with batch dimensions as spatial ones."""
    labels = re.match(r"(\w+)_(\w+)->(\w+)", re.search(r"dim_labels=(\S+?)(?:,|$)", instruction.rest)[1])
    size_of = lambda side, label, dims: dims[labels[side].index(label)]
    window = dict(re.findall(r"(\w+)=(\S+)", instruction.attribute("window") or ""))
    count = size_of(3, "b", out) * size_of(3, "f", out) * size_of(2, "i", right)
    for dim in range(len(out) - 2):
        sizes = (size_of(side, str(dim), dims) for side, dims in ((1, left), (2, right), (3, out)))
        number = lambda name, default, dim=dim: window[name].split("x")[dim] if name in window else default
        steps = (int(number(name, 1)) for name in ("stride", "lhs_dilate", "rhs_dilate"))
        count *= _pairs(*sizes, *steps, int(str(number("pad", "0_0")).split("_")[0]))
    return count


@functools.lru_cache
def _pairs(left, right, out, stride, left_dilation, right_dilation, pad):
    """(output, kernel) position pairs of one dimension that meet an element of the left side."""
    outs = np.arange(out) * stride - pad
    positions = (outs + k * right_dilation for k in range(right))
    inside = lambda p: (0 <= p) & (p <= (left - 1) * left_dilation) & (p % left_dilation == 0)
    return sum(int(np.count_nonzero(inside(p))) for p in positions)
