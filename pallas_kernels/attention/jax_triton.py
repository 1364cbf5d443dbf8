"""Flash attention on GPUs in Triton, through jax-triton: portable, Ampere to Blackwell, and AMD.

triton_forward.py and triton_backward.py hold the kernels, triton_blocks.py the sizes; triton and jax-triton are needed
only where a program is lowered for a GPU. Each block of queries, or of keys in the backward of those, walks the list of
the blocks that it has to do with: FULL ones first, with no mask work, then PARTIAL ones.
"""
import dataclasses
import math

import jax
import jax.numpy as jnp

from pallas_kernels import masks, triton_call
from pallas_kernels.attention import tiles, triton_blocks
from pallas_kernels.attention.spec import AttentionSpec, Rows

HEAD_SIZES = (16, 32, 64, 128, 256)


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
    if spec.score_scale(q.shape[-1]) <= 0:
        return f"wants a positive scale, not {spec.scale}"
    return None


def forward(q, k, v, tokens, spec: AttentionSpec, table=None, before=None):
    """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    from pallas_kernels.attention import triton_forward
    (B, T, N, H), blocks = q.shape, triton_blocks.choose("forward", q, spec.block)
    tokens, plan = _plan(spec, tokens, blocks)
    results = jax.ShapeDtypeStruct(q.shape, spec.result_dtype(q)), jax.ShapeDtypeStruct((B, T, N), jnp.float32)
    kernel, before = (triton_forward.forward, ()) if before is None else (triton_forward.onward, before)
    return _call(kernel, [q, k, v, *tokens, *_lists(plan), *before], results, (_cdiv(T, blocks.q), N, B), spec, blocks)


def backward(q, k, v, tokens, spec: AttentionSpec, rows: Rows, table=None):
    """(dq, dk, dv, None) of these keys and queries; see reference.backward."""
    from pallas_kernels.attention import triton_backward
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    lse = jnp.where(jnp.isfinite(rows.lse), rows.lse / math.log(2), 0.0)           # a row that sees nothing: any will do
    dout = rows.dout.astype(q.dtype)
    like = lambda x: jax.ShapeDtypeStruct(x.shape, spec.result_dtype(x))

    def run(name, kernel, results, by_keys):
        blocks = triton_blocks.choose(name, q, spec.block)
        both, plan = _plan(spec, tokens, blocks, by_keys)
        by_row = [tiles.pad(x.transpose(0, 2, 1), 2, blocks.q) for x in (lse, rows.delta)]
        grid = (_cdiv(S, blocks.k), K, B) if by_keys else (_cdiv(T, blocks.q), N, B)
        return _call(kernel, [q, k, v, dout, *by_row, *both, *_lists(plan)], results, grid, spec, blocks)

    dq, = run("dq", triton_backward.dq, (like(q),), False)
    return dq, *run("dkdv", triton_backward.dkdv, (like(k), like(v)), True), None


def program(mask: masks.Mask) -> tuple:
    """The mask as nested tuples: its class's name, and its fields. What triton_parts.visible evaluates."""
    fields = (getattr(mask, field.name) for field in dataclasses.fields(mask))
    return type(mask).__name__, *(program(field) if isinstance(field, masks.Mask) else field for field in fields)


def _plan(spec, tokens, blocks, by_keys=False):
    """Each side's tokens as int32 [B, 2, whole blocks], and the visiting order of blocks."""
    q_tokens, k_tokens = (tiles.pad_tokens(x, size) for x, size in zip(tokens, (blocks.q, blocks.k), strict=True))
    relation = tiles.relations(spec.mask, q_tokens, k_tokens, blocks.q, blocks.k)
    plan = tiles.schedule(relation.swapaxes(-1, -2) if by_keys else relation)
    return [jnp.stack(x, 1) for x in (q_tokens, k_tokens)], plan


def _lists(plan: tiles.Schedule):
    return plan.order, jnp.stack([plan.full, plan.active], -1)


def _call(kernel, operands, results, grid, spec, blocks):
    (_, T, N, H), (_, S, K, _) = operands[0].shape, operands[1].shape
    scale, cap = spec.score_scale(H), spec.soft_cap
    return triton_call.call(
        kernel, operands, results, grid, blocks.warps, blocks.stages, T=T, S=S, N=N, K=K, H=H, BLOCK_Q=blocks.q,
        BLOCK_K=blocks.k, SCALE=scale, CAP=cap, EXPONENT=(cap or scale) / math.log(2), MASK=program(spec.mask))


def _cdiv(length, block):
    return -(-length // block)
