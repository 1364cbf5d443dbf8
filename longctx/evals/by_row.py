"""Tasks whose rows are numbered, so that a few can be read now and the others later: what experiments.extend asks.

Row i of a length is the same for every model and method, and however many rows are read. To add a task: a class with
the methods of RowTask beside the evaluation that it belongs to, and a line in TASKS of experiments/run/comparison.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from longctx.evals import batches

Counts = dict[str, list]


class Rows(NamedTuple):
    """Some rows of a length: the batch that a predictor reads, and what its Prediction of them is worth."""

    batch: dict[str, Any]
    counted: Callable[[batches.Prediction], Counts]


class Summary(NamedTuple):
    """A number with its 95% interval; words: in a sentence. low and high are None where nothing is known of them."""

    value: float | None
    low: float | None
    high: float | None
    words: str


class RowTask(Protocol):
    """A task of numbered rows.

    Attributes:
      what: what is measured, and its unit.
      chance: the value of guessing, or None.
      why_none: the reason why a length has no rows.
    """

    @property
    def what(self) -> str: ...

    @property
    def chance(self) -> float | None: ...

    @property
    def why_none(self) -> str: ...

    def count(self, length: int) -> int:
        """The number of rows there are at a length in tokens; 0 where none can be made."""
        ...

    def rows(self, length: int, numbers: range) -> Rows:
        """The rows with these numbers."""
        ...

    def merged(self, parts: list[Counts]) -> Counts:
        """The counts of all rows from those of some of them, in the order of their numbers."""
        ...

    def summary(self, counts: Counts) -> Summary:
        """The value of merged counts."""
        ...


class Shares:
    """The counts of tasks with answers: by depth in the haystack, how many were asked for, and how many are right."""

    def merged(self, parts: list[Counts]) -> Counts:
        """See RowTask."""
        return {name: [sum(depth) for depth in zip(*(part[name] for part in parts), strict=True)] for name in parts[0]}

    def summary(self, counts: Counts) -> Summary:
        """The share over all depths. Its interval takes answers for independent draws."""
        right, asked = sum(counts["right"]), sum(counts["asked"])
        low, high = (batches.number(bound) for bound in batches.binomial(right, asked))
        value = batches.number(right / asked) if asked else None
        return Summary(value, low, high, f"{right} of {asked} right ({low:.0%} to {high:.0%})")
