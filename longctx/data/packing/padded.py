"""Every document in rows of its own, the rest of them padding: for comparison."""

import numpy as np

from longctx.data.packing.packing import Packing, check, in_rows
from longctx.ragged import ragged_arange


def pack(lengths: np.ndarray, capacity: int, rng: np.random.Generator | None = None) -> Packing:
    """One piece a row; a document longer than a row takes several. Nothing is drawn."""
    lengths = check(lengths, capacity)
    pieces = -(-lengths // capacity)
    document = np.repeat(np.arange(len(lengths)), pieces)
    start = ragged_arange(pieces) * capacity
    length = np.minimum(lengths[document] - start, capacity)
    return in_rows(capacity, document, start, length, np.arange(len(document)))
