"""Sizes of the Triton kernels' blocks, by the kind of matrix unit, and cut to the shared memory that there is.

That a program takes more shared memory than there is comes out when it is launched, not before: hence the rule here,
and a test that the compiler reports no more than it says.
"""
from typing import NamedTuple

from pallas_kernels import gpu_chips


class Blocks(NamedTuple):
    """Tokens of a block of queries and of keys, warps of a program, and stages of its loops' pipeline.

    With 2 n - 1 stages there are n buffers for what a loop loads: its block's number takes as many steps as its block.
    """
    q: int
    k: int
    warps: int
    stages: int


# by kind of matrix unit, named after the first major compute capability that has it: mma.sync on Ampere, Ada and the
# small Blackwells; wgmma on Hopper, which wants 64 rows for each 4 warps; tcgen05 on Blackwell, with a memory of its
# own for results. None is AMD's, whose warps are twice as wide
SIZES = {
    "forward": {8: Blocks(128, 64, 8, 5), 9: Blocks(128, 128, 8, 3), 10: Blocks(128, 64, 8, 5),
                None: Blocks(128, 32, 4, 3)},
    "dq": {8: Blocks(128, 32, 8, 3), 9: Blocks(128, 64, 8, 3), 10: Blocks(128, 64, 8, 3), None: Blocks(64, 32, 4, 3)},
    "dkdv": {8: Blocks(64, 64, 8, 3), 9: Blocks(64, 128, 8, 3), 10: Blocks(64, 64, 8, 3),
             None: Blocks(32, 64, 4, 3)},
}


def why_not(q, block: int) -> str | None:
    """The reason why blocks of that many tokens cannot be, or None; 0 is a choice that always works."""
    if reason := why_not_size(block):
        return reason
    most = gpu_chips.block_shared(gpu_chips.capability())
    need = max(shared(kernel, choose(kernel, q, block), q) for kernel in SIZES)
    return f"blocks of {block} tokens take {need} bytes of shared memory, and may take {most}" if need > most else None


def why_not_size(block: int) -> str | None:
    """The reason why no kernel has blocks of that many tokens, or None; 0 is a choice that always works."""
    wrong = block and (block < 16 or block & (block - 1))
    return f"takes blocks of a power of two, 16 or more, not {block} tokens" if wrong else None


def choose(kernel: str, q, block: int) -> Blocks:
    """The Blocks of a kernel of SIZES for queries q [B,T,N,H], on the traced device; of `block` tokens if not 0."""
    if block:
        return Blocks(block, block, 8 if block >= 128 else 4, 3)
    most = gpu_chips.block_shared(gpu_chips.capability())
    return next(blocks for blocks in _candidates(kernel) if shared(kernel, blocks, q) <= most)


def shared(kernel: str, blocks: Blocks, q) -> int:
    """Bytes of shared memory that the kernel takes, at most: a rule fitted to what Triton 3.9 reports."""
    stays, passes = (getattr(blocks, side) for side in _sides(kernel))
    forward, row = kernel == "forward", q.shape[-1] * q.dtype.itemsize
    loads = (blocks.stages + 1) // 2 * (2 * row * passes + 8 * (blocks.q + blocks.k))
    stationary = row * stays * (1 if forward else 2)
    factors = 0 if forward else blocks.q * blocks.k * q.dtype.itemsize         # of other products, on their way there
    of_registers = max(loads + 2 * factors, loads // 2 + stationary)
    return {8: of_registers, 9: loads + stationary, 10: loads + stationary + 4 * factors, None: of_registers}[_unit()]


def _candidates(kernel):
    """Sizes from the most to the least memory: of SIZES; with two buffers; smaller ones; what fits into 64 KiB."""
    stays, passes = _sides(kernel)
    largest = SIZES[kernel][_unit()]
    smaller = largest._replace(stages=3)
    return largest, smaller, smaller._replace(**{passes: 32}), smaller._replace(**{stays: 64, passes: 32}, warps=4)


def _sides(kernel):
    """(the side, "q" or "k", of which a program keeps a block; the side that passes it block by block)."""
    return ("k", "q") if kernel == "dkdv" else ("q", "k")


def _unit():
    capability = gpu_chips.capability()
    return capability and (capability[0] if capability[0] in (9, 10) else 8)
