"""Which segments of a context an answer rests on: by the likelihood of the answer where segments are left out.

As TracLLM (arXiv 2506.04202) does: groups of segments are halved level by level; at each level those that contribute
least are dropped, from the context too, and the others are halved again. So a needle in n segments takes O(keep log n)
rows of text rather than n.

A value is a function of tuples of segment numbers -> the log-likelihood of the answer in nats, float64 [subsets], with
these segments alone before the question.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from longctx.errors import UserError, unknown_name
from longctx.evals import batches

Subset = tuple[int, ...]
Value = Callable[[Sequence[Subset]], np.ndarray]
Groups = Sequence[Subset]
KEEP = 5  # groups that stay at a level, as the paper has it
ORDERS = 5  # random orders of Shapley's values, each read in both directions
HIGHEST = 0.2  # share of the contributions in random orders that `shapley_top` takes the mean of, as the paper has it


class Answer:
    """The value of subsets of segments by a model. rows: how many texts it has read.

    The text is the segments in order, the question, a space and the answer.
    """

    def __init__(self, predictor, tokenizer, segments: Sequence[str], question: str, answer: str, length: int):
        self.predictor, self.tokenizer, self.length = predictor, tokenizer, length
        self.segments, self.question, self.answer = segments, question, answer
        self.rows = 0
        self._known: dict[Subset, float] = {}
        longest = self._piece(tuple(range(len(segments))))
        if len(longest.inputs) > length:
            raise UserError(f"the segments, question and answer are {len(longest.inputs):,} tokens, over {length:,}.")

    def __call__(self, subsets: Sequence[Subset]) -> np.ndarray:
        new = [subset for subset in dict.fromkeys(subsets) if subset not in self._known]
        pieces = [self._piece(subset) for subset in new]
        scored = batches.score(self.predictor, [[piece] for piece in pieces], self.length, self.tokenizer.pad)
        for subset, piece, (found,) in zip(new, pieces, scored, strict=True):
            self._known[subset] = -float(found.nll[piece.asked].sum())
        self.rows += len(new)
        return np.array([self._known[subset] for subset in subsets])

    def _piece(self, subset: Subset) -> batches.Piece:
        context = "".join(self.segments[i] for i in subset)
        return batches.answered(self.tokenizer, f"{context}{self.question} {self.answer}", self.answer)


def attribute(
    predictor, tokenizer, segments: Sequence[str], question: str, answer: str, length: int, **options
) -> np.ndarray:
    """The contribution of each segment to an answer, in nats; NaN for those that the search dropped.

    Args:
      predictor, tokenizer: see longctx.evals.task.Task.
      segments: the parts of the context; joined as they are, they are all of it.
      question: what follows the context; then a space and the answer follow.
      length: tokens of a row, at least those of the whole text.
      options: of `search`.

    Raises UserError where the text is longer, and for an unknown way.
    """
    return search(Answer(predictor, tokenizer, segments, question, answer, length), len(segments), **options)


def search(
    value: Value, count: int, ways: Sequence[str] = ("leave_one_out",), keep: int = KEEP, seed: int = 0
) -> np.ndarray:
    """The contributions of `count` segments, float64 [count]; NaN for those that were dropped before they were alone.

    ways: names in CONTRIBUTIONS. Each searches by itself; of several the highest contribution counts, leave_one_out
    twice, as the paper has it.
    """
    for i, way in enumerate(ways):
        if way not in CONTRIBUTIONS:
            raise unknown_name(f"ways[{i}]", way, CONTRIBUTIONS)
    if not ways:
        raise UserError("ways=() finds nothing; ('leave_one_out',) works.")
    found = np.full((len(ways), count), np.nan)
    for row, way in zip(found, ways, strict=True):
        weight = 2.0 if way == "leave_one_out" and len(ways) > 1 else 1.0
        _search(value, row, CONTRIBUTIONS[way], weight, keep, np.random.default_rng(seed))
    return np.fmax.reduce(found, axis=0)


def _search(value: Value, found: np.ndarray, contributions, weight: float, keep: int, rng) -> None:
    """Writes the contributions of the segments that are found into `found`."""
    groups: Groups = [tuple(range(len(found)))]
    while any(len(group) > 1 for group in groups):
        groups = [half for group in groups for half in _halves(group)]
        if len(groups) > keep and any(len(group) > 1 for group in groups):
            scores = contributions(value, groups, rng)
            groups = [groups[i] for i in sorted(np.argsort(-scores, kind="stable")[:keep])]
    if groups[0]:
        found[[group[0] for group in groups]] = weight * contributions(value, groups, rng)


def _halves(group: Subset) -> list[Subset]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]] if middle else [group]


# ---- contributions: (value, groups, rng) -> float64 [groups], what each adds to the log-likelihood of the answer -----


def leave_one_out(value: Value, groups: Groups, rng: np.random.Generator) -> np.ndarray:
    """What is lost without a group. A fact that stands in two groups contributes nothing in either."""
    everything = _joined(groups)
    without = [_joined([other for other in groups if other is not group]) for group in groups]
    values = value([everything, *without])
    return values[0] - values[1:]


def alone(value: Value, groups: Groups, rng: np.random.Generator) -> np.ndarray:
    """What a group gives by itself. A fact in two groups contributes in both, one of two steps in neither."""
    values = value([(), *groups])
    return values[1:] - values[0]


def shapley(value: Value, groups: Groups, rng: np.random.Generator) -> np.ndarray:
    """The mean of what a group adds to those before it, over random orders: estimates of Shapley's values.

    They sum to what all groups add, and are exact where contributions add up.
    """
    return _in_orders(value, groups, rng).mean(axis=0)


def shapley_top(value: Value, groups: Groups, rng: np.random.Generator) -> np.ndarray:
    """The mean of the highest contributions over random orders, a share HIGHEST of them: others are mostly noise."""
    added = np.sort(_in_orders(value, groups, rng), axis=0)
    return added[-max(1, math.ceil(HIGHEST * len(added))) :].mean(axis=0)


CONTRIBUTIONS: Mapping[str, Callable[[Value, Groups, np.random.Generator], np.ndarray]] = {
    "leave_one_out": leave_one_out,
    "alone": alone,
    "shapley": shapley,
    "shapley_top": shapley_top,
}


def _in_orders(value: Value, groups: Groups, rng: np.random.Generator) -> np.ndarray:
    """[2 ORDERS, groups]: what each group adds to those before it, in random orders and in these from their ends."""
    orders = np.stack([rng.permutation(len(groups)) for _ in range(ORDERS)])
    orders = np.concatenate([orders, orders[:, ::-1]])
    counts = range(len(groups) + 1)
    subsets = [_joined([groups[i] for i in order[:count]]) for order in orders for count in counts]
    steps = np.diff(value(subsets).reshape(len(orders), len(counts)), axis=1)
    added = np.empty_like(steps)
    np.put_along_axis(added, orders, steps, axis=1)
    return added


def _joined(groups: Groups) -> Subset:
    """The segments of groups, in the order of the text."""
    return tuple(sorted(segment for group in groups for segment in group))
