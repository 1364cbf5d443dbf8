"""The Triton kernels of cross-entropy: matrix products whose results, tiles of logits, are used before they are stored.

x [M,D], head [D,COLUMNS] of which V are real, targets int32 [M]: whole blocks of everything. Importable only where
triton is. What is in capitals is known when a kernel is compiled.
"""
import triton
import triton.language as tl

BITS = tl.constexpr(1.4426950408889634)                     # in a nat


@triton.jit
def forward(x, head, targets, lse, score, M: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, V: tl.constexpr,
            TOKENS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, CAP: tl.constexpr):
    """lse float32 [COLUMNS / WIDTH, M], of each tile's columns; score float32 [M]; targets are all inside of [0, V)."""
    row, column = _tile(M, COLUMNS, TOKENS, WIDTH, GROUP)
    logits = _logits(x, head, row, column, D, COLUMNS, TOKENS, WIDTH, DEPTH, CAP)
    target = tl.load(targets + row)
    found = tl.sum(tl.where(column[None, :] == target[:, None], logits, 0.0), 1)
    tl.store(score + row, found, mask=(target >= tl.min(column)) & (target <= tl.max(column)))
    if COLUMNS > V:
        logits = tl.where((column < V)[None, :], logits, float("-inf"))
    top = tl.max(logits, 1)
    total = tl.sum(tl.exp2((logits - top[:, None]) * BITS), 1)
    tl.store(lse + tl.min(column) // WIDTH * M + row, top + tl.log2(total) / BITS)


@triton.jit
def gradient(x, head, targets, lse, dscore, dlse, d, M: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr,
             V: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
             CAP: tl.constexpr):
    """d [M,COLUMNS], the gradient of x head; lse, dscore, dlse float32 [M]."""
    row, column = _tile(M, COLUMNS, TOKENS, WIDTH, GROUP)
    logits = _logits(x, head, row, column, D, COLUMNS, TOKENS, WIDTH, DEPTH, CAP)
    p = tl.exp2((logits - tl.load(lse + row)[:, None]) * BITS) * tl.load(dlse + row)[:, None]
    p += tl.where(column[None, :] == tl.load(targets + row)[:, None], tl.load(dscore + row)[:, None], 0.0)
    if CAP > 0:
        p *= 1.0 - (logits / CAP) * (logits / CAP)
    if COLUMNS > V:
        p = tl.where((column < V)[None, :], p, 0.0)
    tl.store(d + row.to(tl.int64)[:, None] * COLUMNS + column[None, :], p.to(d.dtype.element_ty))


@triton.jit
def _tile(M: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr):
    """(rows [TOKENS], columns [WIDTH]) of this program: GROUP blocks of tokens at a time go through all columns.

    So that programs that run together read few blocks of either side, and those from the cache.
    """
    BLOCKS: tl.constexpr = M // TOKENS
    of_group = GROUP * (COLUMNS // WIDTH)
    first = tl.program_id(0) // of_group * GROUP
    size = tl.minimum(BLOCKS - first, GROUP)
    at = tl.program_id(0) % of_group
    return (first + at % size) * TOKENS + tl.arange(0, TOKENS), at // size * WIDTH + tl.arange(0, WIDTH)


@triton.jit
def _logits(x, head, row, column, D: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
            DEPTH: tl.constexpr, CAP: tl.constexpr):
    """Soft-capped logits, float32 [TOKENS, WIDTH]."""
    depth = tl.arange(0, DEPTH)
    left = x + row.to(tl.int64)[:, None] * D + depth[None, :]
    right = head + depth.to(tl.int64)[:, None] * COLUMNS + column[None, :]
    acc = tl.zeros([TOKENS, WIDTH], tl.float32)
    for _ in range(0, D, DEPTH):
        acc = tl.dot(tl.load(left), tl.load(right), acc)
        left += DEPTH
        right += DEPTH * COLUMNS
    if CAP > 0:
        return CAP * (1.0 - 2.0 / (tl.exp2(acc * (2.0 * BITS / CAP)) + 1.0))
    else:
        return acc
