"""Pieces of the Triton kernels of attention. Importable only where triton is.

Scores come as `raw`, of which EXPONENT makes bits: a key's weight is exp2(raw * EXPONENT - lse in bits). What is in
capitals is known when a kernel is compiled.
"""
import triton
import triton.language as tl

BITS = tl.constexpr(1.4426950408889634)                     # in a nat


@triton.jit
def visible(MASK: tl.constexpr, q_position, q_segment, k_position, k_segment):
    """mask.visible, elementwise for arrays that broadcast, of the mask that kernel.program wrote down as MASK."""
    if MASK[0] == "And":
        return (visible(MASK[1], q_position, q_segment, k_position, k_segment)
                & visible(MASK[2], q_position, q_segment, k_position, k_segment))
    elif MASK[0] == "Or":
        return (visible(MASK[1], q_position, q_segment, k_position, k_segment)
                | visible(MASK[2], q_position, q_segment, k_position, k_segment))
    elif MASK[0] == "Full":
        return q_position == q_position
    elif MASK[0] == "Causal":
        return q_position >= k_position
    elif MASK[0] == "Window":
        return q_position - k_position < MASK[1]
    elif MASK[0] == "Beyond":
        return q_position - k_position >= MASK[1]
    elif MASK[0] == "Sinks":
        return k_position < MASK[1]
    elif MASK[0] == "PrefixLM":
        return (q_position < MASK[1]) & (k_position < MASK[1])
    elif MASK[0] == "Chunked":
        return q_position // MASK[1] == k_position // MASK[1]
    elif MASK[0] == "ChunksBefore":
        apart = q_position // MASK[1] - k_position // MASK[1]
        return (apart >= MASK[2]) & (apart <= MASK[3])
    elif MASK[0] == "Branches":
        document = k_segment // MASK[1]
        beginning = (k_segment == document * MASK[1]) & (q_segment // MASK[1] == document)
        return (q_segment == k_segment) | beginning
    else:
        tl.static_assert(MASK[0] == "Segments", "a mask that is not known here")
        return q_segment == k_segment


@triton.jit
def sees(MASK: tl.constexpr, q_position, q_segment, k_position, k_segment):
    """masks.sees, elementwise for arrays that broadcast."""
    return visible(MASK, q_position, q_segment, k_position, k_segment) & (q_segment > 0) & (k_segment > 0)


@triton.jit
def info_of(info, block, LENGTH: tl.constexpr, BLOCK: tl.constexpr):
    """(positions, segments) of a block, from those of one batch row, [2, LENGTH]."""
    at = info + block * BLOCK + tl.arange(0, BLOCK)
    return tl.load(at), tl.load(at + LENGTH)


@triton.jit
def rows_of(array, block, HEADS: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr):
    """Pointers [BLOCK, H] to a block of one head in an array [tokens, HEADS, H], from that to its first token."""
    row, column = tl.arange(0, BLOCK)[:, None], tl.arange(0, H)[None, :]
    return array + block.to(tl.int64) * (BLOCK * HEADS * H) + row * (HEADS * H) + column


@triton.jit
def raw_scores(a, b, SCALE: tl.constexpr, CAP: tl.constexpr):
    """Products of queries and keys; with a soft cap, the tanh that it takes of them."""
    products = tl.dot(a, b)
    if CAP > 0:
        return 1.0 - 2.0 / (tl.exp2(products * (2.0 * BITS * SCALE / CAP)) + 1.0)
    else:
        return products


@triton.jit
def times_slope(weights, raw, CAP: tl.constexpr):
    """Weights times d(capped score) / d(score)."""
    if CAP > 0:
        return weights * (1.0 - raw * raw)
    else:
        return weights
