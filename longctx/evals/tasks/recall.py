"""Associative recall by the depth of the needle: which share of the values a model answers."""

import dataclasses

import numpy as np

from longctx.config import RecallConfig
from longctx.data.generated import recall
from longctx.evals.batches import Prediction
from longctx.evals.by_row import Counts, Rows, Shares

SEED = 1 << 32  # added to a run's: rows that training never draws


@dataclasses.dataclass(frozen=True)
class Recall(Shares):
    """`number` rows at every length, see longctx.evals.by_row.RowTask.

    Counted for each of `depths` equal parts of the haystack, from its start: the values asked for, and those right. A
    value is right where greedy decoding would write it, everything before given.
    """

    task: RecallConfig
    number: int
    depths: int
    seed: int
    what = "values recalled, share of those asked for"
    why_none = "the needles and their questions are longer"

    @property
    def chance(self) -> float:
        """The share that guessing among the values gets."""
        return 1 / self.task.value_tokens

    def count(self, length: int) -> int:
        """See RowTask."""
        return self.number if length >= 4 * self.task.needles else 0

    def rows(self, length: int, numbers: range) -> Rows:
        """See RowTask."""
        source, columns = recall.RecallRows(self.task, length, SEED + self.seed), recall.questions(self.task, length)
        place = np.stack([source.row(number)[1] for number in numbers])
        part = place * self.depths // (columns[0] - 1)
        times = lambda parts: np.bincount(parts, minlength=self.depths).tolist()

        def counted(prediction: Prediction) -> Counts:
            return {"asked": times(part.ravel()), "right": times(part[np.asarray(prediction.top)[:, columns]])}

        return Rows(source.gather(np.array(numbers)), counted)
