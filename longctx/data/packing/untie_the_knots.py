"""Untie the Knots (Tian et al. 2024, arXiv 2409.04774): the documents of a row in parts, and the parts shuffled.

To go on with a document, a model has to find the parts of it before, which lie anywhere in the row. A row is one
document to the model. What differs from the published code: no marker tokens stand between parts, and there is no task
that lists them at the end; every token's target is the next one of its own document, so at the end of a part one that
does not follow in the row.
"""

import numpy as np

from longctx.data.packing import concat_and_cut
from longctx.data.packing.packing import Packing, cut, in_rows

MOST_PARTS = 4  # of a document in a row: a number from 1 to this is drawn, each as likely


def pack(lengths: np.ndarray, capacity: int, rng: np.random.Generator) -> Packing:
    """Packs documents one after another in a drawn order, cuts them where a row is full, and shuffles each row's parts.

    A document is cut at places drawn from all of it. The parts of one keep their order, and the last part of the last
    document of a row stays last.
    """
    whole = concat_and_cut.pack(lengths, capacity, rng)
    begin, cuts = np.cumsum(whole.length) - whole.length, rng.integers(0, MOST_PARTS, len(whole.length))
    within = rng.random(cuts.sum()) * np.repeat(whole.length, cuts)  # two at one place, or one at 0, cut once
    places = np.sort(np.repeat(begin, cuts) + within.astype(np.int64))
    piece, start, length = cut(whole.length, places)[:3]
    row = np.repeat(np.arange(whole.rows), np.diff(whole.row_start))[piece]
    key = rng.random(len(piece))
    key = key[np.lexsort((key, piece))]  # parts are in order of pieces, and so of rising keys in each
    key[np.flatnonzero(np.diff(row, append=-1))] = 1
    turn = np.lexsort((key, row))  # rows stay in order
    start += whole.start[piece]
    return in_rows(capacity, whole.document[piece[turn]], start[turn], length[turn], row, group=row)
