"""Flash attention on Hopper GPUs (H100, H200): Pallas Mosaic GPU kernels of our own.

forward.py and backward.py hold the kernels, parts.py what they share. Compiled and
interpreted so far, not run. Masks are evaluated from positions and segments, in PARTIAL blocks alone.
"""
import dataclasses

import jax.numpy as jnp

from pallas_kernels import mosaic_gpu
from pallas_kernels.attention.mosaic_gpu import backward as mosaic_backward
from pallas_kernels.attention.mosaic_gpu import forward as mosaic_forward
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, merge, unsupported
from pallas_kernels.attention.spec import AttentionSpec

HEAD_SIZES = (64, 128)


def why_not(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why this call cannot be, or None. On a CPU it is interpreted, where jax can do that."""
    if reason := unsupported(x) or mosaic_gpu.why_not(x.q, platform):
        return reason
    if spec.bias:
        return "has no bias on scores"
    if x.q.dtype not in (jnp.bfloat16, jnp.float16) or x.k.dtype != x.q.dtype:
        return f"takes bfloat16 or float16 alone, not {x.q.dtype} queries with {x.k.dtype} keys"
    if x.q.shape[3] not in HEAD_SIZES:
        return f"takes head dims 64 and 128 alone, not {x.q.shape[3]}"
    return None


def forward(x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    if initial is None:
        return mosaic_forward.attend(x, spec)
    return merge(initial, mosaic_forward.attend(x, dataclasses.replace(spec, partial=True)))


def backward(x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
    """Gradients of these queries and keys; see reference.backward."""
    return mosaic_backward.grads(x, spec, stats)
