"""The Triton kernel of decode.py: the pair of a few queries over one part of the blocks of keys, by an online softmax.

q [B,T,N,H], k [B,K,H,S], v [B,K,S,H]; positions and segments int32 [B,T] and [B,S]. The list of key blocks: order int32
[B,k blocks]; full and active int32 [B], the number of FULL ones and of all, of which each program takes its part.
Results, for each of SPLITS parts: out [SPLITS,B,T,N,H], lse float32 [SPLITS,B,T,N]. Importable only where triton is.
"""
# static_range is unrolled by Triton's compiler, and no iterator for Python's
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from pallas_kernels.attention.triton.parts import BITS, raw_scores, sees


@triton.jit
def split_forward(q, k, v, q_positions, q_segments, k_positions, k_segments, order, full, active, out, lse,
                  B: tl.constexpr, T: tl.constexpr, S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr,
                  SPLITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SCALE: tl.constexpr,
                  CAP: tl.constexpr, EXPONENT: tl.constexpr, MASK: tl.constexpr):
    """The pair (out, lse) of ROWS of the T x N / K queries of a key head, with one part of the active blocks."""
    G: tl.constexpr = N // K
    K_BLOCKS: tl.constexpr = (S + BLOCK - 1) // BLOCK
    ROW_BLOCKS: tl.constexpr = (T * G + ROWS - 1) // ROWS
    split, n, b = tl.program_id(0), tl.program_id(1) // ROW_BLOCKS, tl.program_id(2).to(tl.int64)
    r = tl.program_id(1) % ROW_BLOCKS * ROWS + tl.arange(0, ROWS)                  # the query r // G of head r % G
    real = r < T * G
    row = (b * T + r // G) * N + n * G + r % G
    column, dim = tl.arange(0, BLOCK), tl.arange(0, H)
    head = (b * K + n) * S * H
    key_tile = k + head + dim.to(tl.int64)[:, None] * S + column[None, :]
    value_tile = v + head + column[:, None] * H + dim[None, :]
    k_positions, k_segments = k_positions + b * S + column, k_segments + b * S + column
    order, blocks, unmasked = order + b * K_BLOCKS, tl.load(active + b), tl.load(full + b)
    start, end = blocks * split // SPLITS, blocks * (split + 1) // SPLITS
    cut = tl.minimum(tl.maximum(start, unmasked), end)                               # FULL blocks are listed first

    top, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, H], tl.float32)
    queries = tl.load(q + row[:, None] * H + dim[None, :], mask=real[:, None], other=0.0)

    for MASKED in tl.static_range(2):
        if MASKED:
            q_position = tl.load(q_positions + b * T + r // G, mask=real, other=0)
            q_segment = tl.load(q_segments + b * T + r // G, mask=real, other=0)
        for step in range(cut if MASKED else start, end if MASKED else cut):
            at = tl.load(order + step).to(tl.int64) * BLOCK
            if MASKED and S % BLOCK:                                                   # FULL blocks are whole
                keys = tl.load(key_tile + at, mask=(at + column < S)[None, :], other=0.0)
            else:
                keys = tl.load(key_tile + at)
            raw = raw_scores(queries, keys, SCALE, CAP)
            if MASKED:
                if S % BLOCK:
                    k_position = tl.load(k_positions + at, mask=at + column < S, other=0)
                    k_segment = tl.load(k_segments + at, mask=at + column < S, other=0)
                else:
                    k_position, k_segment = tl.load(k_positions + at), tl.load(k_segments + at)
                see = sees(MASK, q_position[:, None], q_segment[:, None], k_position[None, :], k_segment[None, :])
                raw = tl.where(see, raw, float("-inf"))
            new = tl.maximum(top, tl.max(raw, 1) * EXPONENT)
            base = tl.where(new == float("-inf"), 0.0, new) if MASKED else new        # or -inf - -inf is NaN
            p = tl.exp2(raw * EXPONENT - base[:, None])
            alpha = tl.exp2(top - base)
            total = total * alpha + tl.sum(p, 1)
            if MASKED and S % BLOCK:
                values = tl.load(value_tile + at * H, mask=(at + column < S)[:, None], other=0.0)
            else:
                values = tl.load(value_tile + at * H)
            acc = tl.dot(p.to(values.dtype), values, acc * alpha[:, None])
            top = new

    seen = total > 0
    total = tl.where(seen, total, 1.0)
    row += split.to(tl.int64) * B * T * N
    tl.store(out + row[:, None] * H + dim[None, :], (acc / total[:, None]).to(out.dtype.element_ty), real[:, None])
    tl.store(lse + row, tl.where(seen, (top + tl.log2(total)) / BITS, float("-inf")), real)
