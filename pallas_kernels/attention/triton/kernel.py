"""Flash attention on GPUs in Triton, through jax-triton: portable, Ampere to Blackwell, and AMD.

forward.py and backward.py hold the kernels, blocks.py the sizes; triton and jax-triton are needed
only where a program is lowered for a GPU. Each block of queries, or of keys in the backward of those, walks the list of
the blocks that it has to do with: FULL ones first, with no mask work, then PARTIAL ones.
"""
import dataclasses
import math

import jax
import jax.numpy as jnp

from pallas_kernels import masks, triton_call
from pallas_kernels.attention import blocks as tiles
from pallas_kernels.attention.spec import AttentionSpec, Rows
from pallas_kernels.attention.triton import blocks as triton_blocks

HEAD_SIZES = (16, 32, 64, 128)


def why_not(q, k, spec: AttentionSpec, platform: str) -> str | None:
    """What stands in the way of this call, or None."""
    if reason := triton_call.why_not(q, platform):
        return reason
    if spec.bias:
        return "has no bias on scores"
    if k.dtype != q.dtype:
        return f"takes one dtype, not {q.dtype} queries with {k.dtype} keys"
    if q.shape[-1] not in HEAD_SIZES:
        return f"takes heads of size {', '.join(map(str, HEAD_SIZES))} alone, not {q.shape[-1]}"
    if reason := triton_blocks.why_not(q, spec.block):
        return reason
    return None


def forward(q, k, v, tokens, spec: AttentionSpec, table=None, before=None):
    """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    from pallas_kernels.attention.triton import forward as triton_forward
    T, blocks = q.shape[1], triton_blocks.choose("forward", q, spec.block)
    (q, before), (k, v) = _padded((q, before), blocks.q), _padded((k, v), blocks.k)
    results = jax.ShapeDtypeStruct(q.shape, spec.result_dtype(q)), jax.ShapeDtypeStruct(q.shape[:3], jnp.float32)
    kernel, before = (triton_forward.forward, ()) if before is None else (triton_forward.onward, before)
    operands = q, k, v, *_plan(spec, tokens, blocks), *before
    return tuple(x[:, :T] for x in _call(kernel, operands, results, blocks.q, spec, blocks))


def backward(q, k, v, tokens, spec: AttentionSpec, rows: Rows, table=None):
    """(dq, dk, dv, None) of these keys and queries; see reference.backward."""
    from pallas_kernels.attention.triton import backward as triton_backward
    lse = jnp.where(jnp.isfinite(rows.lse), rows.lse / math.log(2), 0.0)      # where nothing is seen, any will do
    by_heads = [x.transpose(0, 2, 1) for x in (lse, rows.delta)]

    def run(kernel, name, by_keys):
        blocks = triton_blocks.choose(name, q, spec.block)
        (q_, dout), (k_, v_) = _padded((q, rows.dout.astype(q.dtype)), blocks.q), _padded((k, v), blocks.k)
        like = [jax.ShapeDtypeStruct(x.shape, spec.result_dtype(x)) for x in ((k_, v_) if by_keys else (q_,))]
        by_rows = (tiles.pad(x, 2, blocks.q) for x in by_heads)
        operands = q_, k_, v_, dout, *by_rows, *_plan(spec, tokens, blocks, by_keys)
        return _call(kernel, operands, tuple(like), blocks.k if by_keys else blocks.q, spec, blocks)

    (dq,), (dk, dv) = run(triton_backward.dq, "dq", False), run(triton_backward.dkdv, "dkdv", True)
    return dq[:, :q.shape[1]], dk[:, :k.shape[1]], dv[:, :k.shape[1]], None


def program(mask: masks.Mask) -> tuple:
    """The mask as nested tuples: its class's name, and its fields. What triton_parts.visible evaluates."""
    fields = (getattr(mask, field.name) for field in dataclasses.fields(mask))
    return type(mask).__name__, *(program(field) if isinstance(field, masks.Mask) else field for field in fields)


def _padded(arrays, block):
    return jax.tree.map(lambda x: tiles.pad(x, 1, block), arrays)


def _plan(spec, tokens, blocks, by_keys=False):
    """What the kernels know of tokens and of blocks to visit: q_tokens, k_tokens, order, counts."""
    q_tokens, k_tokens = tiles.pad_tokens(tokens[0], blocks.q), tiles.pad_tokens(tokens[1], blocks.k)
    relation = tiles.relations(spec.mask, q_tokens, k_tokens, blocks.q, blocks.k)
    plan = tiles.schedule(relation.swapaxes(-1, -2) if by_keys else relation)
    return jnp.stack(q_tokens, 1), jnp.stack(k_tokens, 1), plan.order, jnp.stack([plan.full, plan.active], -1)


def _call(kernel, operands, results, block, spec, blocks):
    """The kernel with a program for each block of the first result, of `block` tokens, and each of its heads."""
    (_, T, N, H), (_, S, K, _), (B, length, heads, _) = operands[0].shape, operands[1].shape, results[0].shape
    scale, cap = spec.score_scale(H), spec.soft_cap
    return triton_call.call(
        kernel, operands, results, (length // block, heads, B), blocks.warps, blocks.stages, T=T, S=S, N=N, K=K, H=H,
        BLOCK_Q=blocks.q, BLOCK_K=blocks.k, SCALE=scale, CAP=cap, EXPONENT=(cap or scale) / math.log(2),
        MASK=program(spec.mask))
