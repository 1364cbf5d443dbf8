"""What the Triton kernels of attention share. Importable only where triton is.

Arrays are read by blocks of rows, [tokens, heads, head size] in memory; tokens beyond an array's end read as zeros.
Scores come as `raw`: weights are exp2(raw * (exponent of one raw) - lse in bits). What is capital is known when compiled.
"""
import triton
import triton.language as tl

BITS = tl.constexpr(1.4426950408889634)                     # in a nat


@triton.jit
def visible(MASK: tl.constexpr, q_position, q_segment, k_position, k_segment):
    """masks.sees for the mask that jax_triton.program wrote; but where neither side has a token, some bool."""
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
    else:
        tl.static_assert(MASK[0] == "Segments", "a mask that these kernels do not know")
        return q_segment == k_segment


@triton.jit
def sees(MASK: tl.constexpr, q_position, q_segment, k_position, k_segment):
    """masks.sees, elementwise for arrays that broadcast."""
    return visible(MASK, q_position, q_segment, k_position, k_segment) & (q_segment > 0) & (k_segment > 0)


@triton.jit
def tokens_of(tokens, block, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    """(positions, segments) of a block, from one row's [2, PADDED]."""
    at = block * BLOCK + tl.arange(0, BLOCK)
    return tl.load(tokens + at), tl.load(tokens + PADDED + at)


@triton.jit
def rows_of(array, block, LENGTH: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr,
            WHOLE: tl.constexpr):
    """[BLOCK, H]: a block of one head, where `array` points at the head's first token.

    WHOLE: the block is known to end before the array does.
    """
    row, column = tl.arange(0, BLOCK)[:, None], tl.arange(0, H)[None, :]
    at = array + block.to(tl.int64) * (BLOCK * HEADS * H) + row * (HEADS * H) + column
    if WHOLE or LENGTH % BLOCK == 0:
        return tl.load(at)
    else:
        return tl.load(at, mask=block * BLOCK + row < LENGTH, other=0.0)


@triton.jit
def store_rows(array, block, values, LENGTH: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr):
    """The inverse of rows_of, in the array's dtype."""
    row, column = tl.arange(0, BLOCK)[:, None], tl.arange(0, H)[None, :]
    at = array + block.to(tl.int64) * (BLOCK * HEADS * H) + row * (HEADS * H) + column
    tl.store(at, values.to(array.dtype.element_ty), mask=block * BLOCK + row < LENGTH)


@triton.jit
def raw_scores(a, b, SCALE: tl.constexpr, CAP: tl.constexpr):
    """Products of a and b, of queries and keys; under a soft cap their tanh, that of the score."""
    raw = tl.dot(a, b)
    if CAP > 0:
        return 1.0 - 2.0 / (tl.exp2(raw * (2.0 * BITS * SCALE / CAP)) + 1.0)
    else:
        return raw


@triton.jit
def slope(raw, CAP: tl.constexpr):
    """d(capped score) / d(score)."""
    if CAP > 0:
        return 1.0 - raw * raw
    else:
        return 1.0
