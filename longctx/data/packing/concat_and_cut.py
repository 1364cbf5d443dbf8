"""Documents one after another in a drawn order, cut wherever a row is full: no padding, but many documents are cut."""

import numpy as np

from longctx.data.packing.packing import Packing, check, full_rows


def pack(lengths: np.ndarray, capacity: int, rng: np.random.Generator) -> Packing:
    """Packs documents of the given lengths into rows of `capacity` places, all of which are full but the last row's.

    The pieces of a document that is cut are documents of their own to the model. The order is drawn.
    """
    lengths = check(lengths, capacity)
    order = rng.permutation(len(lengths))
    return full_rows(capacity, order, np.zeros_like(order), lengths[order])
