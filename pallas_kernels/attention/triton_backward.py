"""The Triton backward: dq by a program for each block of queries and head, dk and dv by one for each block of keys and
key head, which sums over the query heads that share it. Scores are computed again in both: no atomics, the same result
every time. Importable only where triton is.

Arrays as in triton_forward.py; lse, in bits and 0 where nothing is seen, and delta float32 [B,N,padded length]. The
lists of dkdv are for blocks of keys: order int32 [B,k blocks,q blocks], counts int32 [B,k blocks,2].
"""
import triton
import triton.language as tl

from pallas_kernels.attention.triton_parts import raw_scores, rows_of, sees, slope, store_rows, tokens_of


@triton.jit
def dq(q, k, v, dout, lse, delta, q_tokens, k_tokens, order, counts, result, T: tl.constexpr, S: tl.constexpr,
       N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
       SCALE: tl.constexpr, CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    Q_BLOCKS: tl.constexpr = tl.cdiv(T, BLOCK_Q)
    K_BLOCKS: tl.constexpr = tl.cdiv(S, BLOCK_K)
    # the last queries first: under a causal mask they have most to do
    i, n, b = Q_BLOCKS - 1 - tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    head = (b * T * N + n) * H
    k, v = k + (b * S * K + n // (N // K)) * H, v + (b * S * K + n // (N // K)) * H
    q_tokens, k_tokens = q_tokens + b * (2 * Q_BLOCKS * BLOCK_Q), k_tokens + b * (2 * K_BLOCKS * BLOCK_K)
    order, counts = order + (b * Q_BLOCKS + i) * K_BLOCKS, counts + (b * Q_BLOCKS + i) * 2
    full, active = tl.load(counts), tl.load(counts + 1)

    row = (b * N + n) * (Q_BLOCKS * BLOCK_Q) + i * BLOCK_Q + tl.arange(0, BLOCK_Q)
    lses, deltas = tl.load(lse + row)[:, None], tl.load(delta + row)[:, None]
    queries, douts = rows_of(q + head, i, T, N, H, BLOCK_Q, False), rows_of(dout + head, i, T, N, H, BLOCK_Q, False)
    acc = tl.zeros([BLOCK_Q, H], tl.float32)

    for step in range(0, full):
        j = tl.load(order + step)
        keys = rows_of(k, j, S, K, H, BLOCK_K, True)
        raw = raw_scores(queries, tl.trans(keys), SCALE, CAP)
        p = tl.exp2(raw * EXPONENT - lses)
        ds = p * (tl.dot(douts, tl.trans(rows_of(v, j, S, K, H, BLOCK_K, True))) - deltas) * slope(raw, CAP)
        acc = tl.dot(ds.to(keys.dtype), keys, acc)

    q_position, q_segment = tokens_of(q_tokens, i, Q_BLOCKS * BLOCK_Q, BLOCK_Q)
    for step in range(full, active):
        j = tl.load(order + step)
        keys = rows_of(k, j, S, K, H, BLOCK_K, False)
        raw = raw_scores(queries, tl.trans(keys), SCALE, CAP)
        k_position, k_segment = tokens_of(k_tokens, j, K_BLOCKS * BLOCK_K, BLOCK_K)
        see = sees(MASK, q_position[:, None], q_segment[:, None], k_position[None, :], k_segment[None, :])
        p = tl.exp2(tl.where(see, raw * EXPONENT - lses, float("-inf")))
        ds = p * (tl.dot(douts, tl.trans(rows_of(v, j, S, K, H, BLOCK_K, False))) - deltas) * slope(raw, CAP)
        acc = tl.dot(ds.to(keys.dtype), keys, acc)

    store_rows(result + head, i, acc * SCALE, T, N, H, BLOCK_Q)


@triton.jit
def dkdv(q, k, v, dout, lse, delta, q_tokens, k_tokens, order, counts, dk_result, dv_result, T: tl.constexpr,
         S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr,
         BLOCK_K: tl.constexpr, SCALE: tl.constexpr, CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    """Scores transposed, [keys, queries], so that all four products have their sums over rows of the right operand."""
    Q_BLOCKS: tl.constexpr = tl.cdiv(T, BLOCK_Q)
    K_BLOCKS: tl.constexpr = tl.cdiv(S, BLOCK_K)
    j, n, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    head = (b * S * K + n) * H
    q_tokens, k_tokens = q_tokens + b * (2 * Q_BLOCKS * BLOCK_Q), k_tokens + b * (2 * K_BLOCKS * BLOCK_K)
    order, counts = order + (b * K_BLOCKS + j) * Q_BLOCKS, counts + (b * K_BLOCKS + j) * 2
    full, active = tl.load(counts), tl.load(counts + 1)

    keys, values = rows_of(k + head, j, S, K, H, BLOCK_K, False), rows_of(v + head, j, S, K, H, BLOCK_K, False)
    dk, dv = tl.zeros([BLOCK_K, H], tl.float32), tl.zeros([BLOCK_K, H], tl.float32)

    for m in range(n * (N // K), (n + 1) * (N // K)):                                   # query heads
        queries_of, douts_of = q + (b * T * N + m) * H, dout + (b * T * N + m) * H
        row = (b * N + m) * (Q_BLOCKS * BLOCK_Q) + tl.arange(0, BLOCK_Q)

        for step in range(0, full):
            i = tl.load(order + step)
            queries = rows_of(queries_of, i, T, N, H, BLOCK_Q, True)
            raw = raw_scores(keys, tl.trans(queries), SCALE, CAP)
            p = tl.exp2(raw * EXPONENT - tl.load(lse + row + i * BLOCK_Q)[None, :])
            douts = rows_of(douts_of, i, T, N, H, BLOCK_Q, True)
            dv = tl.dot(p.to(douts.dtype), douts, dv)
            ds = p * (tl.dot(values, tl.trans(douts)) - tl.load(delta + row + i * BLOCK_Q)[None, :]) * slope(raw, CAP)
            dk = tl.dot(ds.to(queries.dtype), queries, dk)

        k_position, k_segment = tokens_of(k_tokens, j, K_BLOCKS * BLOCK_K, BLOCK_K)
        for step in range(full, active):
            i = tl.load(order + step)
            queries = rows_of(queries_of, i, T, N, H, BLOCK_Q, False)
            raw = raw_scores(keys, tl.trans(queries), SCALE, CAP)
            q_position, q_segment = tokens_of(q_tokens, i, Q_BLOCKS * BLOCK_Q, BLOCK_Q)
            see = sees(MASK, q_position[None, :], q_segment[None, :], k_position[:, None], k_segment[:, None])
            bits = raw * EXPONENT - tl.load(lse + row + i * BLOCK_Q)[None, :]
            p = tl.exp2(tl.where(see, bits, float("-inf")))
            douts = rows_of(douts_of, i, T, N, H, BLOCK_Q, False)
            dv = tl.dot(p.to(douts.dtype), douts, dv)
            ds = p * (tl.dot(values, tl.trans(douts)) - tl.load(delta + row + i * BLOCK_Q)[None, :]) * slope(raw, CAP)
            dk = tl.dot(ds.to(queries.dtype), queries, dk)

    store_rows(dk_result + head, j, dk * SCALE, S, K, H, BLOCK_K)
    store_rows(dv_result + head, j, dv, S, K, H, BLOCK_K)
