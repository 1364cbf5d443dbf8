"""The Triton forward: a program for each block of queries and head, an online softmax over the key blocks of its list.

q [B,T,N,H] and k, v [B,S,K,H] are whole blocks. Infos are int32 [B,2,T] and [B,2,S]: positions, segments. The lists of
key blocks: order int32 [B,q blocks,k blocks]; counts int32 [B,q blocks,2], of FULL ones and of all. Results: out
[B,T,N,H], lse float32 [B,T,N]. Importable only where triton is.
"""
import triton
import triton.language as tl

from pallas_kernels.attention.triton.parts import BITS, info_of, raw_scores, rows_of, sees


@triton.jit
def forward(q, k, v, q_info, k_info, order, counts, out, lse, T: tl.constexpr, S: tl.constexpr, N: tl.constexpr,
            K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SCALE: tl.constexpr,
            CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    """The pair (out, lse) of these keys."""
    _attend(q, k, v, q_info, k_info, order, counts, None, None, out, lse, T, S, N, K, H, BLOCK_Q, BLOCK_K, SCALE,
            CAP, EXPONENT, MASK)


@triton.jit
def resumed(q, k, v, q_info, k_info, order, counts, initial_out, initial_lse, out, lse, T: tl.constexpr,
           S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr,
           BLOCK_K: tl.constexpr, SCALE: tl.constexpr, CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    """The pair of these keys and of others, whose pair comes in float32."""
    _attend(q, k, v, q_info, k_info, order, counts, initial_out, initial_lse, out, lse, T, S, N, K, H, BLOCK_Q,
            BLOCK_K, SCALE, CAP, EXPONENT, MASK)


@triton.jit
def _attend(q, k, v, q_info, k_info, order, counts, initial_out, initial_lse, out, lse, T: tl.constexpr,
            S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr,
            BLOCK_K: tl.constexpr, SCALE: tl.constexpr, CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    Q_BLOCKS: tl.constexpr = T // BLOCK_Q
    K_BLOCKS: tl.constexpr = S // BLOCK_K
    # the last queries first: under a causal mask they have most to do
    i, n, b = Q_BLOCKS - 1 - tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    head, key_head = (b * T * N + n) * H, (b * S * K + n // (N // K)) * H
    q_info, k_info = q_info + b * 2 * T, k_info + b * 2 * S
    order, counts = order + (b * Q_BLOCKS + i) * K_BLOCKS, counts + (b * Q_BLOCKS + i) * 2
    full, active = tl.load(counts), tl.load(counts + 1)

    row = b * T * N + n + (i * BLOCK_Q + tl.arange(0, BLOCK_Q)) * N
    if initial_lse is None:
        top, total = tl.full([BLOCK_Q], float("-inf"), tl.float32), tl.zeros([BLOCK_Q], tl.float32)
        acc = tl.zeros([BLOCK_Q, H], tl.float32)
    else:                                               # the softmax of a single key: its score is lse, its value out
        top = tl.load(initial_lse + row) * BITS
        total = tl.where(top == float("-inf"), 0.0, 1.0)
        acc = tl.load(rows_of(initial_out + head, i, N, H, BLOCK_Q))
    queries = tl.load(rows_of(q + head, i, N, H, BLOCK_Q))

    for MASKED in tl.static_range(2):
        if MASKED:
            q_position, q_segment = info_of(q_info, i, T, BLOCK_Q)
        for step in range(full if MASKED else 0, active if MASKED else full):
            j = tl.load(order + step)
            raw = raw_scores(queries, tl.trans(tl.load(rows_of(k + key_head, j, K, H, BLOCK_K))), SCALE, CAP)
            if MASKED:
                k_position, k_segment = info_of(k_info, j, S, BLOCK_K)
                see = sees(MASK, q_position[:, None], q_segment[:, None], k_position[None, :], k_segment[None, :])
                raw = tl.where(see, raw, float("-inf"))
            new = tl.maximum(top, tl.max(raw, 1) * EXPONENT)
            base = tl.where(new == float("-inf"), 0.0, new) if MASKED else new        # or -inf - -inf is NaN
            p = tl.exp2(raw * EXPONENT - base[:, None])
            alpha = tl.exp2(top - base)
            total = total * alpha + tl.sum(p, 1)
            values = tl.load(rows_of(v + key_head, j, K, H, BLOCK_K))
            acc = tl.dot(p.to(values.dtype), values, acc * alpha[:, None])
            top = new

    seen = total > 0
    total = tl.where(seen, total, 1.0)
    tl.store(rows_of(out + head, i, N, H, BLOCK_Q), (acc / total[:, None]).to(out.dtype.element_ty))
    tl.store(lse + row, tl.where(seen, (top + tl.log2(total)) / BITS, float("-inf")))
