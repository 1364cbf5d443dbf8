"""Flash attention on GPUs in Triton, through jax-triton: portable, Ampere to Blackwell, and AMD.

forward.py and backward.py hold the kernels, blocks.py the sizes; triton and jax-triton are needed only where a program
is lowered for a GPU. Each block of queries, or of keys in their backward, walks the list of the blocks that it has work
with: FULL ones first, with no mask work, then PARTIAL ones.
"""
import dataclasses
import math

import jax
import jax.numpy as jnp

from pallas_kernels import masks, triton_call
from pallas_kernels.attention import blocks
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, unsupported
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.triton import blocks as triton_blocks

HEAD_SIZES = (16, 32, 64, 128)
# the masks that parts.visible has a branch for; calls with others are left to other implementations
MASKS = (masks.And, masks.Or, masks.Full, masks.Causal, masks.Window, masks.Beyond, masks.Sinks, masks.PrefixLM,
         masks.Chunked, masks.ChunksBefore, masks.Segments, masks.Branches)


def why_not(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why this call cannot be, or None."""
    return why_not_call(x, spec, platform) or triton_blocks.why_not(x.q, spec.block)


def why_not_call(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why no Triton kernel takes such a call, whatever its blocks, or None."""
    if reason := unsupported(x) or triton_call.why_not(x.q, platform):
        return reason
    if spec.bias:
        return "has no bias on scores"
    if x.k.dtype != x.q.dtype:
        return f"takes one dtype, not {x.q.dtype} queries with {x.k.dtype} keys"
    if x.q.shape[-1] not in HEAD_SIZES:
        return f"takes heads of size {', '.join(map(str, HEAD_SIZES))} alone, not {x.q.shape[-1]}"
    return why_not_mask(spec.mask)


def why_not_mask(mask: masks.Mask) -> str | None:
    """The reason why this mask cannot be, or None: the kernels evaluate masks by functions of their own."""
    if type(mask) not in MASKS:
        return f"does not know the mask {type(mask).__name__}, which has no branch in triton/parts.py"
    parts = (getattr(mask, field.name) for field in dataclasses.fields(mask))
    return next(filter(None, (why_not_mask(part) for part in parts if isinstance(part, masks.Mask))), None)


def forward(x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    from pallas_kernels.attention.triton import forward as triton_forward
    T, sizes = x.q.shape[1], triton_blocks.choose("forward", x.q, spec.block)
    (q, carried), (k, v) = _padded((x.q, initial), sizes.q), _padded((x.k, x.v), sizes.k)
    results = jax.ShapeDtypeStruct(q.shape, spec.result_dtype(q)), jax.ShapeDtypeStruct(q.shape[:3], jnp.float32)
    kernel = triton_forward.forward if initial is None else triton_forward.resumed
    operands = q, k, v, *_visits(x, spec, sizes), *(carried or ())
    return Pair(*(y[:, :T] for y in _call(kernel, operands, results, sizes.q, spec, sizes)))


def backward(x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
    """Gradients of these queries and keys; see reference.backward."""
    from pallas_kernels.attention.triton import backward as triton_backward
    lse = jnp.where(jnp.isfinite(stats.lse), stats.lse / math.log(2), 0.0)    # where nothing is seen, any will do
    by_heads = [y.transpose(0, 2, 1) for y in (lse, stats.delta)]

    def run(kernel, name, by_keys):
        sizes = triton_blocks.choose(name, x.q, spec.block)
        (q, dout), (k, v) = _padded((x.q, stats.dout.astype(x.q.dtype)), sizes.q), _padded((x.k, x.v), sizes.k)
        like = [jax.ShapeDtypeStruct(y.shape, spec.result_dtype(y)) for y in ((k, v) if by_keys else (q,))]
        by_rows = (blocks.pad(y, 2, sizes.q) for y in by_heads)
        operands = q, k, v, dout, *by_rows, *_visits(x, spec, sizes, by_keys)
        return _call(kernel, operands, tuple(like), sizes.k if by_keys else sizes.q, spec, sizes)

    (dq,), (dk, dv) = run(triton_backward.dq, "dq", False), run(triton_backward.dkdv, "dkdv", True)
    return Grads(dq[:, :x.q.shape[1]], dk[:, :x.k.shape[1]], dv[:, :x.k.shape[1]])


def program(mask: masks.Mask) -> tuple:
    """The mask as nested tuples for parts.visible: its class's name, and its fields."""
    fields = (getattr(mask, field.name) for field in dataclasses.fields(mask))
    return type(mask).__name__, *(program(field) if isinstance(field, masks.Mask) else field for field in fields)


def _padded(arrays, block):
    return jax.tree.map(lambda x: blocks.pad(x, 1, block), arrays)


def _visits(x: Inputs, spec, sizes, by_keys=False):
    """(q_info, k_info, order, counts): positions and segments, and the blocks to visit, as the kernels read them."""
    q_info, k_info = blocks.pad_info(x.q_info, sizes.q), blocks.pad_info(x.k_info, sizes.k)
    relation = blocks.relations(spec.mask, q_info, k_info, sizes.q, sizes.k)
    schedule = blocks.schedule(relation.swapaxes(-1, -2) if by_keys else relation)
    return (jnp.stack(q_info, 1), jnp.stack(k_info, 1), schedule.order,
            jnp.stack([schedule.full, schedule.active], -1))


def _call(kernel, operands, results, block, spec, sizes):
    """The kernel with a program for each block of the first result, of `block` tokens, and each of its heads."""
    (_, T, N, H), (_, S, K, _), (B, length, heads, _) = operands[0].shape, operands[1].shape, results[0].shape
    scale, cap = spec.score_scale(H), spec.soft_cap
    return triton_call.call(
        kernel, operands, results, (length // block, heads, B), sizes.warps, sizes.stages, T=T, S=S, N=N, K=K, H=H,
        BLOCK_Q=sizes.q, BLOCK_K=sizes.k, SCALE=scale, CAP=cap, EXPONENT=(cap or scale) / math.log(2),
        MASK=program(spec.mask))
