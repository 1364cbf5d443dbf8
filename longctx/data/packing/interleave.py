"""Documents of a row in turns (LongSkywork, arXiv 2406.00605): the first part of each, then the second of each, ...

What a token needs stands far before it, behind parts of other documents. A row is one document to the model; every
token's target is the next one of its own document, so at the end of a part one that does not follow in the row.
"""

import numpy as np

from longctx.data.packing import concat_and_cut
from longctx.data.packing.packing import Packing, cut, in_rows
from longctx.ragged import ragged_arange

PARTS = 4  # of a document in a row, all equally long


def pack(lengths: np.ndarray, capacity: int, rng: np.random.Generator) -> Packing:
    """Packs documents one after another in a drawn order, cuts them where a row is full, and takes turns in each row.

    A document of fewer than PARTS tokens in a row has as many parts as tokens.
    """
    whole = concat_and_cut.pack(lengths, capacity, rng)
    begin = np.cumsum(whole.length) - whole.length
    places = begin[:, None] + whole.length[:, None] * np.arange(PARTS) // PARTS
    piece, start, length = cut(whole.length, places.ravel())[:3]
    del begin, places  # of ten million documents each array of parts has 320 MB
    row = np.repeat(np.arange(whole.rows), np.diff(whole.row_start))[piece]
    start += whole.start[piece]
    turn = ragged_arange(np.bincount(piece))
    turn += row * PARTS
    turn = np.argsort(turn, kind="stable")  # rows stay in order
    document, start, length = whole.document[piece[turn]], start[turn], length[turn]
    del whole, piece, turn
    return in_rows(capacity, document, start, length, row, group=row)
