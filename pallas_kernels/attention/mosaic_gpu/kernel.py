"""Flash attention on Hopper GPUs (H100, H200): Pallas Mosaic GPU kernels of our own.

forward.py and backward.py hold the kernels, parts.py what they share. Compiled and
interpreted so far, not run. Masks are evaluated from positions and segments, in PARTIAL blocks alone.
"""
import dataclasses

import jax.numpy as jnp

from pallas_kernels import mosaic_gpu
from pallas_kernels.attention import reference
from pallas_kernels.attention.mosaic_gpu import backward as mosaic_backward
from pallas_kernels.attention.mosaic_gpu import forward as mosaic_forward
from pallas_kernels.attention.spec import AttentionSpec, Rows

HEAD_SIZES = (64, 128)


def why_not(q, k, spec: AttentionSpec, platform: str) -> str | None:
    """What stands in the way of this call, or None. On a CPU it is interpreted, where jax can do that."""
    if reason := mosaic_gpu.why_not(q, platform):
        return reason
    if spec.bias:
        return "has no bias on scores"
    if q.dtype not in (jnp.bfloat16, jnp.float16) or k.dtype != q.dtype:
        return f"takes bfloat16 or float16 alone, not {q.dtype} queries with {k.dtype} keys"
    if q.shape[3] not in HEAD_SIZES:
        return f"takes head dims 64 and 128 alone, not {q.shape[3]}"
    return None


def forward(q, k, v, tokens, spec: AttentionSpec, table=None, before=None):
    """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    if before is None:
        return mosaic_forward.attend(q, k, v, tokens, spec)
    return reference.merge(before, mosaic_forward.attend(q, k, v, tokens, dataclasses.replace(spec, partial=True)))


def backward(q, k, v, tokens, spec: AttentionSpec, rows: Rows, table=None):
    """(dq, dk, dv, None) of these keys and queries; see reference.backward."""
    return *mosaic_backward.grads(q, k, v, tokens, spec, rows), None
