"""The log-likelihoods of pieces of text: many short ones share a row of a batch, longer ones that begin alike share
their beginning, and equal ones are read once."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from longctx.data.packing.best_fit import pack
from longctx.errors import UserError
from longctx.evals import batches, branches
from longctx.evals.batches import Piece, Prediction, Predictor

SHORTEST_ROW = 1024  # tokens: shorter pieces share rows of so many


class Likelihood(NamedTuple):
    """The sum of the log-likelihoods of the targets that a piece asks for, in nats; whether greedy decoding writes
    them all."""

    log: float
    greedy: bool


def score(predictor: Predictor, pieces: Sequence[Piece], longest: int, pad: int) -> list[Likelihood]:
    """The Likelihood of each piece, in their order.

    Rows have as many tokens as a power of two, at most `longest`, which no piece is longer than: so few shapes are
    compiled. RoPE scalings that depend on the length (dynamic, LongRoPE, CLEX) assume that of the row.

    Raises UserError where the model gives no number.
    """
    different = {_key(piece): piece for piece in pieces}
    by_size = defaultdict(list)
    for key, piece in different.items():
        by_size[row_size(len(piece.inputs), longest)].append((key, piece))
    found = {}
    for size, group in sorted(by_size.items(), reverse=True):  # what could take too much memory comes first
        if size > SHORTEST_ROW:
            predictions = branches.score(predictor, [piece for _, piece in group], size, pad)
            found |= {key: _likelihood(piece, one) for (key, piece), one in zip(group, predictions, strict=True)}
            continue
        packing = pack(np.array([len(piece.inputs) for _, piece in group]), size)
        rows = [packing.document[slice(*ends)] for ends in zip(packing.row_start, packing.row_start[1:], strict=False)]
        predictions = batches.score(predictor, [[group[i][1] for i in row] for row in rows], size, pad)
        for row, of_row in zip(rows, predictions, strict=True):
            found |= {group[i][0]: _likelihood(group[i][1], one) for i, one in zip(row, of_row, strict=True)}
    return [found[_key(piece)] for piece in pieces]


def row_size(tokens: int, longest: int) -> int:
    """The length of the row that so many tokens are read in."""
    return min(longest, max(SHORTEST_ROW, 1 << (tokens - 1).bit_length()))


def _key(piece: Piece) -> tuple[bytes, bytes, int]:
    """Equal for pieces that are alike: what is asked for is the last targets."""
    return piece.inputs.tobytes(), piece.targets[-1:].tobytes(), len(piece.asked)


def _likelihood(piece: Piece, prediction: Prediction) -> Likelihood:
    log = -float(prediction.nll[piece.asked].sum())
    if np.isnan(log):
        raise UserError("the model's logits are NaN: its weights or its dtype overflow.")
    return Likelihood(log, bool(prediction.top[piece.asked].all()))
