"""Texts that begin alike, read together: what they share once, then the rest of each as a branch of it.

    row        [ beginning | rest of text 1 | rest of text 2 | ... ]
    positions    0 .. s-1    s ..             s ..
    segments     SIZE        SIZE + 1         SIZE + 2               under masks.Branches(SIZE)

So many questions about one context cost little more than one.
"""

from collections.abc import Sequence

import numpy as np

from longctx.evals.batches import Piece, Placed, Prediction, Predictor, score_placed
from longctx.evals.batches import score as score_rows
from longctx.ragged import common_prefix

SIZE = 64  # segments of a row: a beginning, and one for each branch
WIDER = 1.25  # a row with branches is at most so much longer than a text may be


def score(predictor: Predictor, pieces: Sequence[Piece], length: int, pad: int) -> list[Prediction]:
    """The prediction of every piece, each of up to `length` tokens: nll f64[n] and top bool[n].

    Neighbours that share at least half of their tokens share a row, where the predictor reads branches. What a piece
    does not ask for may be NaN and False.
    """
    read = getattr(predictor, "branched", None)  # plain functions and masks that look ahead have none
    groups = [[piece] for piece in pieces] if read is None else grouped(pieces, length)
    if read is None or len(groups) == len(pieces):
        return [found for (found,) in score_rows(predictor, [[piece] for piece in pieces], length, pad)]
    starts = [shared(group) for group in groups]
    rows = [_row(group, start) for group, start in zip(groups, starts, strict=True)]
    unit = max(length // 16, 1)  # so that few widths are compiled
    width = max(sum(len(placed.piece.inputs) for placed in row) for row in rows)
    found = score_placed(lambda batch: read(batch, length), rows, -(-width // unit) * unit, pad)
    return [
        _whole(piece, start, prediction)
        for group, start, (_, *predictions) in zip(groups, starts, found, strict=True)
        for piece, prediction in zip(group, predictions, strict=True)
    ]


def grouped(pieces: Sequence[Piece], length: int) -> list[list[Piece]]:
    """Neighbours that are read in one row."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        group = [*groups[-1], piece] if groups else [piece]
        start = shared(group)
        tokens = start + sum(len(each.inputs) - start for each in group)
        fits = tokens <= WIDER * length and len(group) < SIZE
        if groups and fits and 2 * start >= max(len(each.inputs) for each in group):
            groups[-1] = group
        else:
            groups.append([piece])
    return groups


def shared(group: Sequence[Piece]) -> int:
    """The number of tokens that all pieces begin with and of whose targets none is asked for."""
    return min(min(_first_asked(piece), common_prefix(piece.inputs, group[0].inputs)) for piece in group)


def _first_asked(piece: Piece) -> int:
    n = len(piece.inputs)
    return 0 if piece.asked is None else int((np.asarray(piece.asked) % n).min(initial=n))


def _row(group: Sequence[Piece], start: int) -> list[Placed]:
    """The beginning, of which nothing is asked, and the branches."""
    none = np.zeros(0, np.int64)
    beginning = Piece(group[0].inputs[:start], group[0].targets[:start], none)
    rests = [
        Piece(piece.inputs[start:], piece.targets[start:], np.asarray(piece.asked) % len(piece.inputs) - start)
        if piece.asked is not None
        else piece
        for piece in group
    ]
    return [Placed(beginning, SIZE), *(Placed(rest, SIZE + i, start) for i, rest in enumerate(rests, start=1))]


def _whole(piece: Piece, start: int, rest: Prediction) -> Prediction:
    """The prediction of a piece, of which that of the rest is known."""
    nll, top = np.full(len(piece.inputs), np.nan), np.zeros(len(piece.inputs), bool)
    nll[start:], top[start:] = rest
    return Prediction(nll, top)
