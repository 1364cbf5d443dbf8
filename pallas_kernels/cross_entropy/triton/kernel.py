"""Cross-entropy on GPUs in Triton, through jax-triton: no logits in memory forward, few and in 16 bits backward.

Forward: matrix products whose tiles of logits become log-sum-exps, of their columns, before they are stored. Backward:
for a part of the vocabulary at a time, a kernel computes the logits again and stores their gradient; XLA's own matrix
products make dx and dhead of it. Parts are of the vocabulary so that what is summed over them is dx, not the larger
dhead. bodies.py holds the kernels.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import gpu_chips, triton_call
from pallas_kernels.cross_entropy.spec import CrossEntropySpec

_GROUP = 8                       # blocks of tokens that go through all columns together


class Blocks(NamedTuple):
    """Tokens and columns of a tile of logits, how much of D is loaded at a time, into how many buffers; warps."""
    tokens: int
    columns: int
    depth: int
    stages: int
    warps: int = 8


SIZES = Blocks(128, 256, 64, 4), Blocks(128, 256, 64, 3), Blocks(128, 128, 64, 3), Blocks(128, 128, 32, 3)


def why_not(x, head, spec: CrossEntropySpec, platform: str) -> str | None:
    """The reason why this call cannot be, or None."""
    if reason := triton_call.why_not(x, platform):
        return reason
    return f"takes one dtype, not {x.dtype} hidden states with a {head.dtype} head" if head.dtype != x.dtype else None


def forward(x, head, targets, spec: CrossEntropySpec):
    """(score, lse), each float32 [M]; see reference.forward."""
    from pallas_kernels.cross_entropy.triton import bodies as triton_bodies
    M, V, blocks = x.shape[0], head.shape[1], choose()
    inside = (targets >= 0) & (targets < V)
    operands = _whole(x, blocks), _whole_head(head, blocks), _whole(jnp.where(inside, targets, 0), blocks)
    rows, columns = operands[0].shape[0], operands[1].shape[1]
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((columns // blocks.columns, rows), (rows,))]
    lse, score = _call(triton_bodies.forward, operands, tuple(results), V, spec, blocks)
    return jnp.where(inside, score[:M], 0.0), jax.nn.logsumexp(lse, 0)[:M]


def backward(x, head, targets, spec: CrossEntropySpec, lse, cotangent):
    """(dx [M, D], dhead [D, V]); see reference.backward."""
    from pallas_kernels.cross_entropy.triton import bodies as triton_bodies
    M, V, blocks = x.shape[0], head.shape[1], choose()
    by_row = [_whole(a, blocks) for a in (lse, *cotangent)]
    whole, targets = _whole(x, blocks), _whole(targets, blocks)

    def part(sums, start, size):
        dx, dhead = sums
        columns = jax.lax.dynamic_slice_in_dim(head, start, size, 1)
        operands = whole, _whole_head(columns, blocks), targets - start, *by_row
        like = jax.ShapeDtypeStruct((whole.shape[0], operands[1].shape[1]), x.dtype)
        d = _call(triton_bodies.gradient, operands, (like,), size, spec, blocks)[0][:M, :size]
        matmul = lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32)
        dhead = jax.lax.dynamic_update_slice_in_dim(dhead, matmul(x.T, d).astype(head.dtype), start, 1)
        return dx + matmul(d, columns.T), dhead

    size = part_size(M, V, spec, blocks)
    zero = 0 * lse[0]                                                                      # varies as the tokens do
    sums = jnp.zeros_like(x, jnp.float32) + zero, jnp.zeros_like(head) + zero.astype(head.dtype)
    sums = jax.lax.fori_loop(0, V // size, lambda i, sums: part(sums, i * size, size), sums)
    dx, dhead = part(sums, V - V % size, V % size) if V % size else sums
    return dx.astype(x.dtype), dhead


def part_size(M: int, V: int, spec: CrossEntropySpec, blocks: Blocks) -> int:
    """Columns whose logits exist at one time: as many logits as of `spec.chunk` tokens, in whole blocks."""
    return min(max(spec.chunk * V // M // blocks.columns, 1) * blocks.columns, V)


def choose() -> Blocks:
    """The largest of SIZES that fit the shared memory of the device that a program is traced for."""
    most = gpu_chips.block_shared(gpu_chips.capability())
    return next(blocks for blocks in SIZES if shared(blocks) <= most)


def shared(blocks: Blocks) -> int:
    """Bytes of shared memory that the kernels take, at most; of 16-bit numbers."""
    return blocks.stages * 2 * blocks.depth * (blocks.tokens + blocks.columns) + 4096


def _whole(x, blocks):
    """[M] or [M, D] with zeros to whole blocks."""
    return jnp.pad(x, [(0, -n % block) for n, block in zip(x.shape, (blocks.tokens, blocks.depth), strict=False)])


def _whole_head(head, blocks):
    return jnp.pad(head, [(0, -n % block) for n, block in zip(head.shape, (blocks.depth, blocks.columns), strict=True)])


def _call(kernel, operands, results, V, spec, blocks):
    (M, D), columns = operands[0].shape, operands[1].shape[1]
    return triton_call.call(
        kernel, operands, results, (M // blocks.tokens * (columns // blocks.columns),), blocks.warps, blocks.stages,
        M=M, D=D, COLUMNS=columns, V=V, TOKENS=blocks.tokens, WIDTH=blocks.columns, DEPTH=blocks.depth, GROUP=_GROUP,
        CAP=spec.soft_cap)
