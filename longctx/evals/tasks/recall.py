"""Associative recall by the depth of the needle: which share of the values a model answers."""

import numpy as np

from longctx.config import RecallConfig
from longctx.data.generated import recall
from longctx.evals import batches

SEED = 1 << 32  # added to a run's: rows that training never draws


def by_depth(predictor, task: RecallConfig, length: int, rows: int, depths: int, seed: int) -> list[dict]:
    """For each of `depths` equal parts of the haystack, from its start: how many values were asked for, how many right.

    predictor: see longctx.evals.api. `rows` rows of `length` tokens, the same for every predictor; a value is right
    where greedy decoding would write it, everything before given. Guessing among the values gets 1 / task.value_tokens.
    """
    source, columns = recall.RecallRows(task, length, SEED + seed), recall.questions(task, length)
    size, asked, right = batches.rows_at(length), np.zeros(depths, int), np.zeros(depths, int)
    for first in range(0, rows, size):
        numbers = range(first, min(first + size, rows))
        top = np.asarray(predictor(source.gather(numbers)).top)[:, columns]
        place = np.stack([source.row(number)[1] for number in numbers])
        part = place * depths // (columns[0] - 1)
        asked += np.bincount(part.ravel(), minlength=depths)
        right += np.bincount(part[top], minlength=depths)
    return [{"asked": int(a), "right": int(r)} for a, r in zip(asked, right, strict=True)]
