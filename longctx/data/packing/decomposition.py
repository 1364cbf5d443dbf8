"""Dataset Decomposition (Pouransari et al. 2024, arXiv 2405.13226): pieces of 2^k tokens, rows of pieces of one length.

A document is cut into the largest powers of two that are left of it, as the binary form of its length says; no two
documents share a piece, and a row that holds pieces of one length has no padding. A batch of such rows costs attention
only over the pieces, in one compiled shape. What differs from the published code: a piece has as many targets as
inputs without a token between two pieces that is no target; and of a document longer than a row the pieces are as long
as a row, where the code draws shorter ones.
"""

import numpy as np

from longctx.data.packing.packing import Packing, check, in_rows
from longctx.ragged import ragged_arange

SHORTEST = 256  # tokens of a piece; what is left of a document below this is left out (published: the same)


def pack(lengths: np.ndarray, capacity: int, rng: np.random.Generator) -> Packing:
    """Packs documents into rows of pieces of 2^k tokens, up to the largest such number that is at most `capacity`.

    Each piece is dealt by chance to a row of its length, so that the pieces of a document do not stand together; the
    last row of each length may have room left. Rests below SHORTEST tokens, or a smaller row, are left out and counted.
    """
    lengths = check(lengths, capacity)
    largest = 1 << capacity.bit_length() - 1
    rest, size = lengths, largest
    parts, start, first_row = [], np.zeros_like(lengths), 0
    while size >= min(SHORTEST, largest):
        count = rest // size if size == largest else (rest >= size).astype(np.int64)
        document, place = np.repeat(np.arange(len(lengths)), count), ragged_arange(count)
        order = rng.permutation(len(document))
        row = first_row + np.arange(len(document)) // (capacity // size)
        parts.append((document[order], start[document[order]] + place[order] * size, np.full(len(document), size), row))
        first_row, start, rest = (row[-1] + 1 if len(row) else first_row), start + count * size, rest - count * size
        size //= 2
    pieces = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return in_rows(capacity, *pieces, left_out=int(rest.sum()))
