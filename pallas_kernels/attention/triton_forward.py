"""The Triton forward: a program for each block of queries and head, an online softmax over the key blocks of its list.

q [B,T,N,H]; k, v [B,S,K,H]; tokens int32 [B,2,padded length]: positions, segments; order int32 [B,q blocks,k blocks]
and counts int32 [B,q blocks,2], of FULL and of active ones, say which key blocks to visit. out [B,T,N,H] and lse
float32 [B,T,N] are results. Importable only where triton is.
"""
import triton
import triton.language as tl

from pallas_kernels.attention.triton_parts import BITS, raw_scores, rows_of, sees, store_rows, tokens_of


@triton.jit
def forward(q, k, v, q_tokens, k_tokens, order, counts, out, lse, T: tl.constexpr, S: tl.constexpr, N: tl.constexpr,
            K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SCALE: tl.constexpr,
            CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    _attend(q, k, v, q_tokens, k_tokens, order, counts, None, None, out, lse, T, S, N, K, H, BLOCK_Q, BLOCK_K, SCALE,
            CAP, EXPONENT, MASK)


@triton.jit
def onward(q, k, v, q_tokens, k_tokens, order, counts, out_before, lse_before, out, lse, T: tl.constexpr,
           S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr,
           BLOCK_K: tl.constexpr, SCALE: tl.constexpr, CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    """The same, from the float32 result over other keys on."""
    _attend(q, k, v, q_tokens, k_tokens, order, counts, out_before, lse_before, out, lse, T, S, N, K, H, BLOCK_Q,
            BLOCK_K, SCALE, CAP, EXPONENT, MASK)


@triton.jit
def _attend(q, k, v, q_tokens, k_tokens, order, counts, out_before, lse_before, out, lse, T: tl.constexpr,
            S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr,
            BLOCK_K: tl.constexpr, SCALE: tl.constexpr, CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    Q_BLOCKS: tl.constexpr = tl.cdiv(T, BLOCK_Q)
    K_BLOCKS: tl.constexpr = tl.cdiv(S, BLOCK_K)
    # the last queries first: under a causal mask they have most to do
    i, n, b = Q_BLOCKS - 1 - tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    q, out, lse = q + (b * T * N + n) * H, out + (b * T * N + n) * H, lse + b * T * N + n
    k, v = k + (b * S * K + n // (N // K)) * H, v + (b * S * K + n // (N // K)) * H
    q_tokens, k_tokens = q_tokens + b * (2 * Q_BLOCKS * BLOCK_Q), k_tokens + b * (2 * K_BLOCKS * BLOCK_K)
    order, counts = order + (b * Q_BLOCKS + i) * K_BLOCKS, counts + (b * Q_BLOCKS + i) * 2
    full, active = tl.load(counts), tl.load(counts + 1)

    row = i * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = row < T
    if lse_before is None:
        top, total = tl.full([BLOCK_Q], float("-inf"), tl.float32), tl.zeros([BLOCK_Q], tl.float32)
        acc = tl.zeros([BLOCK_Q, H], tl.float32)
    else:                                               # as of a single key, whose score is lse and whose value is out
        top = tl.load(lse_before + b * T * N + n + row * N, mask=inside, other=float("-inf")) * BITS
        total = tl.where(top == float("-inf"), 0.0, 1.0)
        acc = rows_of(out_before + (b * T * N + n) * H, i, T, N, H, BLOCK_Q, False)
    queries = rows_of(q, i, T, N, H, BLOCK_Q, False)

    for step in range(0, full):
        j = tl.load(order + step)
        raw = raw_scores(queries, tl.trans(rows_of(k, j, S, K, H, BLOCK_K, True)), SCALE, CAP)
        new = tl.maximum(top, tl.max(raw, 1) * EXPONENT)
        p = tl.exp2(raw * EXPONENT - new[:, None])
        alpha = tl.exp2(top - new)
        total = total * alpha + tl.sum(p, 1)
        values = rows_of(v, j, S, K, H, BLOCK_K, True)
        acc = tl.dot(p.to(values.dtype), values, acc * alpha[:, None])
        top = new

    q_position, q_segment = tokens_of(q_tokens, i, Q_BLOCKS * BLOCK_Q, BLOCK_Q)
    for step in range(full, active):
        j = tl.load(order + step)
        raw = raw_scores(queries, tl.trans(rows_of(k, j, S, K, H, BLOCK_K, False)), SCALE, CAP)
        k_position, k_segment = tokens_of(k_tokens, j, K_BLOCKS * BLOCK_K, BLOCK_K)
        see = sees(MASK, q_position[:, None], q_segment[:, None], k_position[None, :], k_segment[None, :])
        raw = tl.where(see, raw, float("-inf"))
        new = tl.maximum(top, tl.max(raw, 1) * EXPONENT)
        base = tl.where(new == float("-inf"), 0.0, new)             # of rows that have seen nothing yet: no inf - inf
        p = tl.exp2(raw * EXPONENT - base[:, None])
        alpha = tl.exp2(top - base)
        total = total * alpha + tl.sum(p, 1)
        values = rows_of(v, j, S, K, H, BLOCK_K, False)
        acc = tl.dot(p.to(values.dtype), values, acc * alpha[:, None])
        top = new

    some = total > 0
    total = tl.where(some, total, 1.0)
    store_rows(out, i, acc / total[:, None], T, N, H, BLOCK_Q)
    tl.store(lse + row * N, tl.where(some, (top + tl.log2(total)) / BITS, float("-inf")), mask=inside)
