"""Flash attention on TPU: Pallas Mosaic kernels that walk a list of active block pairs.

forward.py and backward.py hold the kernels, pairs.py the list, sizes.py the sizes.

On a CPU the same kernels run interpreted: slow, exact, for tests. Which of the two is decided when the call is lowered,
so that a program can be compiled for a TPU from a machine that has none.

On v6e and later bfloat16 weights are summed as rounded, by the matrix unit: lse is good to about 2e-4 of its size.
"""
import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import mosaic_tpu
from pallas_kernels.attention import blocks as tiles
from pallas_kernels.attention.spec import AttentionSpec, Rows
from pallas_kernels.attention.tpu import backward as tpu_backward
from pallas_kernels.attention.tpu import forward as tpu_forward
from pallas_kernels.attention.tpu import sizes as tpu_sizes

# bytes of SMEM, which has 2**20: for a list of pairs, and for the position and segment ranges of chunks of keys
_TABLE, _RANGES = 2**19, 2**18


def why_not(q, k, spec: AttentionSpec, platform: str) -> str | None:
    """What stands in the way of this call, or None."""
    if reason := mosaic_tpu.why_not(q, platform):
        return reason
    if spec.bias:
        return "has no bias on scores"
    if q.dtype not in (jnp.bfloat16, jnp.float32) or k.dtype != q.dtype:
        return f"takes bfloat16 or float32 alone, not {q.dtype} queries with {k.dtype} keys"
    S, chunk = k.shape[1], tpu_sizes.choose("forward", q.dtype, q.shape[3], (q.shape[1], k.shape[1]), spec.block).chunk
    if (size := 16 * k.shape[0] * pl.cdiv(S, chunk)) > _RANGES:
        return f"what it must know of chunks of {S} keys takes {size} bytes of scalar memory, and may take {_RANGES}"
    return None


def forward(q, k, v, tokens, spec: AttentionSpec, table=None, before=None):
    """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition.

    Queries whose list of pairs is too long for scalar memory are taken in parts.
    """
    (B, T, _, H), S = q.shape, k.shape[1]
    blocks = tpu_sizes.choose("forward", q.dtype, H, (T, S), spec.block)
    size = _part(B, T, blocks.q, pl.cdiv(S, blocks.k))
    if size >= T:
        return tpu_forward.attend(q, k, v, tokens, spec, blocks, before)
    part = lambda x: tpu_forward.attend(x[0], k, v, (x[1], tokens[1]), spec, blocks, x[2])
    return jax.tree.map(lambda x: _joined(x, T), jax.lax.map(part, _parts((q, tokens[0], before), size)))


def backward(q, k, v, tokens, spec: AttentionSpec, rows: Rows, table=None):
    """(dq, dk, dv, None) of these keys and queries; see reference.backward.

    Keys whose list of pairs is too long for scalar memory are taken in parts.
    """
    (B, T, _, H), S = q.shape, k.shape[1]
    blocks = tpu_sizes.choose("backward", q.dtype, H, (T, S), spec.block)
    size = _part(B, S, blocks.k, pl.cdiv(T, blocks.q))
    if size >= S:
        return *tpu_backward.grads(q, k, v, tokens, spec, rows, blocks), None

    def part(dq, keys):
        k, v, k_tokens = keys
        share, *mine = tpu_backward.grads(q, k, v, (tokens[0], k_tokens), summed, rows, blocks)
        return dq + share, mine

    summed = dataclasses.replace(spec, partial=True)
    dq, mine = jax.lax.scan(part, jnp.zeros_like(q, jnp.float32), _parts((k, v, tokens[1]), size))
    return *spec.rounded((dq, *(_joined(x, S) for x in mine)), (q, k, v)), None


def _part(batch, length, block, others):
    """Tokens of the outer side whose pairs with `others` blocks fit the table, in whole blocks, one at least."""
    return max(_TABLE // (4 * batch * others), 1) * block


def _parts(arrays, size):
    """[B, length, ...] -> [parts, B, size, ...], zeros past the end: segment 0 is no token."""
    def cut(x):
        x = tiles.pad(x, 1, size)
        return x.reshape(x.shape[0], -1, size, *x.shape[2:]).swapaxes(0, 1)
    return jax.tree.map(cut, arrays)


def _joined(x, length):
    """The inverse of _parts."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
