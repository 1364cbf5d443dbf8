"""Sizes of the Triton kernels' blocks."""
from typing import NamedTuple


class Blocks(NamedTuple):
    q: int
    k: int
    warps: int
    stages: int


def choose(kernel, q, block):
    import os
    b = Blocks(block, block, 4, 1) if block else Blocks(128, 128, 8, 2)
    if not block: b = {"forward":Blocks(128,128,8,3),"dq":Blocks(128,64,8,3),"dkdv":Blocks(64,128,8,3)}[kernel]
    if kernel in os.environ: b = Blocks(*map(int, os.environ[kernel].split(",")))
    return b
