"""Documents one after another in a drawn order, cut wherever a row is full: no padding, but many documents are cut."""

import numpy as np

from longctx.data.packing.packing import Packing, check, in_rows
from longctx.ragged import ragged_arange


def pack(lengths: np.ndarray, capacity: int, rng: np.random.Generator) -> Packing:
    """Packs documents of the given lengths into rows of `capacity` places, all of which are full but the last row's.

    The pieces of a document that is cut are documents of their own to the model. The order is drawn.
    """
    lengths = check(lengths, capacity)
    order = rng.permutation(len(lengths))
    end = np.cumsum(lengths[order])
    begin = end - lengths[order]  # in the stream of all tokens
    first, last = begin // capacity, (end - 1) // capacity
    pieces = last - first + 1
    row = np.repeat(first, pieces) + ragged_arange(pieces)
    from_ = np.maximum(np.repeat(begin, pieces), row * capacity)
    to = np.minimum(np.repeat(end, pieces), (row + 1) * capacity)
    return in_rows(capacity, np.repeat(order, pieces), from_ - np.repeat(begin, pieces), to - from_, row)
