"""Flash attention on TPU: Pallas Mosaic kernels that walk a list of the block pairs with work in them.

forward.py and backward.py hold the kernels, pairs.py the list, sizes.py the sizes.

On a CPU the kernels run interpreted: slow, exact, for tests. Which of the two is decided when the call is lowered, so
that a program can be compiled for a TPU from a machine that has none.

On v6e and later bfloat16 weights are summed as rounded, by the matrix unit: lse is good to about 2e-4 of its size.
"""
import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import mosaic_tpu
from pallas_kernels.attention import blocks
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, unsupported
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.tpu import backward as tpu_backward
from pallas_kernels.attention.tpu import forward as tpu_forward
from pallas_kernels.attention.tpu import sizes as tpu_sizes

# bytes of SMEM, which has 2**20: for a list of pairs, and for the position and segment ranges of chunks of keys
_LIST, _RANGES = 2**19, 2**18


def why_not(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why this call cannot be, or None."""
    if reason := unsupported(x) or mosaic_tpu.why_not(x.q, platform):
        return reason
    if spec.bias:
        return "has no bias on scores"
    if x.q.dtype not in (jnp.bfloat16, jnp.float32) or x.k.dtype != x.q.dtype:
        return f"takes bfloat16 or float32 alone, not {x.q.dtype} queries with {x.k.dtype} keys"
    S, chunk = x.k.shape[1], _sizes("forward", x, spec).chunk
    if (size := 16 * x.k.shape[0] * pl.cdiv(S, chunk)) > _RANGES:
        return f"what it must know of chunks of {S} keys takes {size} bytes of scalar memory, and may take {_RANGES}"
    return None


def forward(x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition.

    Queries whose list of pairs is too long for scalar memory are taken in parts.
    """
    (B, T), S, sizes = x.q.shape[:2], x.k.shape[1], _sizes("forward", x, spec)
    size = _part(B, T, sizes.q, pl.cdiv(S, sizes.k))
    if size >= T:
        return tpu_forward.attend(x, spec, sizes, initial)

    def part(queries):
        q, q_info, initial = queries
        return tpu_forward.attend(x._replace(q=q, q_info=q_info), spec, sizes, initial)

    return jax.tree.map(lambda y: _joined(y, T), jax.lax.map(part, _parts((x.q, x.q_info, initial), size)))


def backward(x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
    """Gradients of these queries and keys; see reference.backward.

    Keys whose list of pairs is too long for scalar memory are taken in parts.
    """
    (B, T), S, sizes = x.q.shape[:2], x.k.shape[1], _sizes("backward", x, spec)
    size = _part(B, S, sizes.k, pl.cdiv(T, sizes.q))
    if size >= S:
        return tpu_backward.grads(x, spec, stats, sizes)
    partial = dataclasses.replace(spec, partial=True)

    def part(dq, keys):
        k, v, k_info = keys
        share = tpu_backward.grads(x._replace(k=k, v=v, k_info=k_info), partial, stats, sizes)
        return dq + share.dq, (share.dk, share.dv)

    dq, dkv = jax.lax.scan(part, jnp.zeros_like(x.q, jnp.float32), _parts((x.k, x.v, x.k_info), size))
    return spec.rounded(Grads(dq, *(_joined(y, S) for y in dkv)), x)


def _sizes(op, x: Inputs, spec) -> tpu_sizes.Blocks:
    return tpu_sizes.choose(op, x.q.dtype, x.q.shape[3], (x.q.shape[1], x.k.shape[1]), spec.block)


def _part(batch, length, block, others):
    """How many tokens of the outer side have a list of pairs, with `others` blocks, that fits; at least one block."""
    return max(_LIST // (4 * batch * others), 1) * block


def _parts(arrays, size):
    """[B, length, ...] -> [parts, B, size, ...], zeros past the end: segment 0 is no token."""
    def split(x):
        x = blocks.pad(x, 1, size)
        return x.reshape(x.shape[0], -1, size, *x.shape[2:]).swapaxes(0, 1)
    return jax.tree.map(split, arrays)


def _joined(x, length):
    """The inverse of _parts."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
