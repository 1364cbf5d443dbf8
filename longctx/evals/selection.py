"""Scores of documents by what a long context is worth in them, by name, to choose training data by.

Every score is a mean over targets that count in a training loss, so of instruction data it is of the answers. A
document too short for a score has NaN. Of ProLong the specificity of a dependency among all segments is not computed.
To add one: a function here and a line in SCORES.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from longctx.evals import batches
from longctx.evals.batches import LongDocument, Piece, Prediction, Predictor

PAIRS = 24  # of segments that are compared in a document


class Plan(NamedTuple):
    """length: tokens of a document that are read, at most; short: of a short context, or of a segment; bos, pad: the
    tokenizer's; seed: of what is drawn."""

    length: int
    short: int
    bos: int
    pad: int
    seed: int = 0


class Model(Protocol):
    """A predictor that also tells what it attends to, see longctx.evals.predictor.Model."""

    def __call__(self, batch: dict[str, np.ndarray], /) -> Prediction: ...

    def attended(self, batch: dict[str, np.ndarray], parts: np.ndarray, count: int) -> np.ndarray: ...


def context(predictors: Sequence[Predictor], document: LongDocument, plan: Plan) -> float:
    """The loss behind a short context minus that behind all of the text, nats per token (GATEAU's idea for one model).

    Of the targets behind the first plan.short; a short context has plan.short to twice as many tokens.
    """
    asked = _counting(document, plan.short, plan)
    if not len(asked):
        return np.nan
    return float((_short(predictors[0], document, asked, plan) - _whole(predictors[0], document, asked, plan)).mean())


def gap(predictors: Sequence[Predictor], document: LongDocument, plan: Plan) -> float:
    """The loss by a second model minus that by the first, nats per token, of the targets behind the first plan.short.

    The second is one of the same family that is made for shorter text (homologous model guidance of GATEAU, arXiv
    2410.15633).
    """
    asked = _counting(document, plan.short, plan)
    if not len(asked):
        return np.nan
    first, second = (_whole(predictor, document, asked, plan) for predictor in predictors)
    return float((second - first).mean())


def pairs(predictors: Sequence[Predictor], document: LongDocument, plan: Plan) -> float:
    """The part of a segment's loss that another segment far before it takes away, times how far (ProLong, arXiv
    2405.17915): the mean over drawn pairs of segments of plan.short tokens; distances are parts of the document."""
    segments = min(document.targets, plan.length) // plan.short
    if segments < 3:
        return np.nan
    rng = np.random.default_rng([plan.seed, document.targets])
    earlier, later = np.triu_indices(segments, 2)  # no neighbours: those are no long dependency
    drawn = rng.permutation(len(earlier))[:PAIRS]
    pieces = {(i, j): _pair(document, i, j, plan) for i, j in zip(earlier[drawn], later[drawn], strict=True)}
    kept = [pair for pair, row in pieces.items() if row]
    rows = [pieces[pair] for pair in kept]
    if not rows:
        return np.nan
    found = batches.score(predictors[0], rows, 3 * plan.short, plan.pad)
    losses = np.array(
        [
            [one.nll[piece.asked].mean() for one, piece in zip(*each, strict=True)]
            for each in zip(found, rows, strict=True)
        ]
    )
    far = np.array([j - i for i, j in kept]) / (segments - 1)
    return float(np.mean((losses[:, 0] - losses[:, 1]) / losses[:, 0] * far))


def awareness(predictors: Sequence[Model], document: LongDocument, plan: Plan) -> float:
    """The share of attention on the segments that matter, above that of attention that is even: the two quantities of
    GATEAU's contextual awareness measurement (arXiv 2410.15633).

    Asked for are the last targets that count, within plan.short tokens; these and as many tokens before them are their
    own text. What is before that is cut into segments of plan.short. A segment matters by softmax(-loss) of the targets
    behind it and their own text alone. Attention is the mean over heads and layers when all of the text is read, of
    what falls on segments at all; the first token, on which much rests whatever is read, is of none. The score is the
    sum of products less 1 / segments: 0 where all segments matter alike, or get alike. What differs from the
    publication: it looks for documents that are hard, and so for attention that misses what matters.
    """
    counting = _counting(document, 0, plan)
    end = int(counting[-1]) + 1 if len(counting) else 0
    first = end - 2 * plan.short  # of their own text
    segments = first // plan.short
    if segments < 2:
        return np.nan
    asked = counting[counting >= end - plan.short]
    whole, own = Piece(document.ids[:end], document.ids[1 : end + 1], asked), document.ids[first : end + 1]
    rows = []
    for segment in range(segments):
        ids = document.ids[segment * plan.short : (segment + 1) * plan.short]
        inputs, targets = np.append(ids, own[:-1]), np.append(np.append(ids[1:], own[0]), own[1:])
        rows.append([Piece(inputs, targets, asked - first + plan.short)])
    found = batches.score(predictors[0], rows, 3 * plan.short, plan.pad)
    losses = np.array([one[0].nll[row[0].asked].mean() for one, row in zip(found, rows, strict=True)])
    parts = np.full((1, plan.length), -1)
    parts[0, : segments * plan.short] = np.arange(segments * plan.short) // plan.short
    parts[0, 0] = -1
    attended = predictors[0].attended(batches.batch([[whole]], plan.length, plan.pad), parts, segments)[0]
    weights = np.exp(losses.min() - losses)
    return float(attended / max(attended.sum(), 1e-30) @ (weights / weights.sum()) - 1 / segments)


def _pair(document: LongDocument, i, j, plan: Plan) -> list[Piece]:
    """Segment j alone, and behind segment i; nothing where no target of it counts."""
    start, size = j * plan.short, plan.short
    asked = _counting(document, start, plan._replace(length=start + size)) - start
    first, second = (document.ids[k * size : (k + 1) * size + 1] for k in (i, j))
    alone = Piece(np.append(np.int32(plan.bos), second[1:-1]), second[1:], asked)
    inputs, targets = (np.concatenate([first[cut], second[cut]]) for cut in (slice(None, -1), slice(1, None)))
    return [alone, Piece(inputs, targets, asked + size)] if len(asked) else []


Score = Callable[[Sequence[Any], LongDocument, Plan], float]
SCORES: dict[str, Score] = {"context": context, "pairs": pairs, "gap": gap, "awareness": awareness}
MODELS = {"gap": 2}  # that a score asks, where it is more than one


def _counting(document: LongDocument, first: int, plan: Plan) -> np.ndarray:
    """The targets from `first` on that count, of those that are read."""
    counts = np.ones(document.targets, bool) if document.counts is None else document.counts
    return first + np.flatnonzero(counts[first : plan.length])


def _whole(predictor: Predictor, document: LongDocument, asked: np.ndarray, plan: Plan) -> np.ndarray:
    """The loss of the targets that are asked for, behind all of the text."""
    end = int(asked[-1]) + 1
    piece = Piece(document.ids[:end], document.ids[1 : end + 1], asked)
    return batches.score(predictor, [[piece]], plan.length, plan.pad)[0][0].nll[asked]


def _short(predictor: Predictor, document: LongDocument, asked: np.ndarray, plan: Plan) -> np.ndarray:
    """The loss of the same targets, behind a short context each."""
    pieces = list(_windows(document, asked, plan))
    found = batches.score(predictor, [[piece] for piece in pieces], 2 * plan.short, plan.pad)
    return np.concatenate([row[0].nll[piece.asked] for row, piece in zip(found, pieces, strict=True)])


def _windows(document: LongDocument, asked: np.ndarray, plan: Plan) -> Iterator[Piece]:
    """Yields windows of up to twice the short context; in each, the targets of its second half are asked for."""
    for start in range(plan.short, int(asked[-1]) + 1, plan.short):
        own = asked[(asked >= start) & (asked < start + plan.short)]
        if len(own):
            end = int(own[-1]) + 1
            piece = batches.last_tokens(document.ids, end, end - start + plan.short, plan.bos)
            yield piece._replace(asked=own - start + plan.short)
