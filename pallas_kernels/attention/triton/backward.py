"""The Triton backward: dq by a program for each block of queries and head, dk and dv by one for each block of keys and
key head, which sums over the query heads that share it. Both compute the scores again: no atomics, the same gradient
every time. Importable only where triton is.

Arrays as in forward.py; lse, in bits and finite everywhere, and delta are float32 [B,N,T]. The lists of dkdv are
of query blocks: order int32 [B,k blocks,q blocks], counts int32 [B,k blocks,2].
"""
import triton
import triton.language as tl

from pallas_kernels.attention.triton.parts import info_of, raw_scores, rows_of, sees, times_slope


@triton.jit
def dq(q, k, v, dout, lse, delta, q_info, k_info, order, counts, dq_out, T: tl.constexpr, S: tl.constexpr,
       N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
       SCALE: tl.constexpr, CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    """The gradient of one block of queries; the list is of key blocks. Scores are [queries, keys]."""
    Q_BLOCKS: tl.constexpr = T // BLOCK_Q
    K_BLOCKS: tl.constexpr = S // BLOCK_K
    # the last queries first: under a causal mask they have most to do
    i, n, b = Q_BLOCKS - 1 - tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    head, key_head = (b * T * N + n) * H, (b * S * K + n // (N // K)) * H
    q_info, k_info = q_info + b * 2 * T, k_info + b * 2 * S
    order, counts = order + (b * Q_BLOCKS + i) * K_BLOCKS, counts + (b * Q_BLOCKS + i) * 2
    full, active = tl.load(counts), tl.load(counts + 1)

    row = (b * N + n) * T + i * BLOCK_Q + tl.arange(0, BLOCK_Q)
    lses, deltas = tl.load(lse + row)[:, None], tl.load(delta + row)[:, None]
    queries, douts = tl.load(rows_of(q + head, i, N, H, BLOCK_Q)), tl.load(rows_of(dout + head, i, N, H, BLOCK_Q))
    acc = tl.zeros([BLOCK_Q, H], tl.float32)

    for MASKED in tl.static_range(2):
        if MASKED:
            q_position, q_segment = info_of(q_info, i, T, BLOCK_Q)
        for step in range(full if MASKED else 0, active if MASKED else full):
            j = tl.load(order + step)
            keys = tl.load(rows_of(k + key_head, j, K, H, BLOCK_K))
            raw = raw_scores(queries, tl.trans(keys), SCALE, CAP)
            bits = raw * EXPONENT - lses
            if MASKED:
                k_position, k_segment = info_of(k_info, j, S, BLOCK_K)
                see = sees(MASK, q_position[:, None], q_segment[:, None], k_position[None, :], k_segment[None, :])
                bits = tl.where(see, bits, float("-inf"))
            dp = tl.dot(douts, tl.trans(tl.load(rows_of(v + key_head, j, K, H, BLOCK_K))))
            ds = times_slope(tl.exp2(bits), raw, CAP) * (dp - deltas)
            acc = tl.dot(ds.to(keys.dtype), keys, acc)

    tl.store(rows_of(dq_out + head, i, N, H, BLOCK_Q), (acc * SCALE).to(dq_out.dtype.element_ty))


@triton.jit
def dkdv(q, k, v, dout, lse, delta, q_info, k_info, order, counts, dk_out, dv_out, T: tl.constexpr, S: tl.constexpr,
         N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
         SCALE: tl.constexpr, CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    """The gradients of one block of keys and values; the list is of query blocks. Scores are [keys, queries]."""
    Q_BLOCKS: tl.constexpr = T // BLOCK_Q
    K_BLOCKS: tl.constexpr = S // BLOCK_K
    j, n, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    key_head = (b * S * K + n) * H
    q_info, k_info = q_info + b * 2 * T, k_info + b * 2 * S
    order, counts = order + (b * K_BLOCKS + j) * Q_BLOCKS, counts + (b * K_BLOCKS + j) * 2
    full, active = tl.load(counts), tl.load(counts + 1)

    keys, values = tl.load(rows_of(k + key_head, j, K, H, BLOCK_K)), tl.load(rows_of(v + key_head, j, K, H, BLOCK_K))
    dk, dv = tl.zeros([BLOCK_K, H], tl.float32), tl.zeros([BLOCK_K, H], tl.float32)

    for m in range(n * (N // K), (n + 1) * (N // K)):                                   # the key head's query heads
        head = (b * T * N + m) * H
        row = (b * N + m) * T + tl.arange(0, BLOCK_Q)
        for MASKED in tl.static_range(2):
            if MASKED:
                k_position, k_segment = info_of(k_info, j, S, BLOCK_K)
            for step in range(full if MASKED else 0, active if MASKED else full):
                i = tl.load(order + step)
                queries = tl.load(rows_of(q + head, i, N, H, BLOCK_Q))
                raw = raw_scores(keys, tl.trans(queries), SCALE, CAP)
                bits = raw * EXPONENT - tl.load(lse + row + i * BLOCK_Q)[None, :]
                if MASKED:
                    q_position, q_segment = info_of(q_info, i, T, BLOCK_Q)
                    see = sees(MASK, q_position[None, :], q_segment[None, :], k_position[:, None], k_segment[:, None])
                    bits = tl.where(see, bits, float("-inf"))
                p = tl.exp2(bits)
                douts = tl.load(rows_of(dout + head, i, N, H, BLOCK_Q))
                dv = tl.dot(p.to(douts.dtype), douts, dv)
                dp = tl.dot(values, tl.trans(douts))
                ds = times_slope(p, raw, CAP) * (dp - tl.load(delta + row + i * BLOCK_Q)[None, :])
                dk = tl.dot(ds.to(queries.dtype), queries, dk)

    tl.store(rows_of(dk_out + key_head, j, K, H, BLOCK_K), (dk * SCALE).to(dk_out.dtype.element_ty))
    tl.store(rows_of(dv_out + key_head, j, K, H, BLOCK_K), dv.to(dv_out.dtype.element_ty))
