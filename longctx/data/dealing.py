"""Rows of a batch, dealt out such that those who take them finish together."""

import heapq

import numpy as np


def deal(work: np.ndarray, ranks: int) -> np.ndarray:
    """i64: the rank of each piece of work, equally many for all: the most work first, to the rank that has least among
    those that have room. Ties go to the first. `ranks` divides the pieces."""
    room, owner, waiting = [len(work) // ranks] * ranks, np.empty(len(work), np.int64), [(0.0, r) for r in range(ranks)]
    for piece in np.argsort(-work, kind="stable"):
        load, rank = heapq.heappop(waiting)
        owner[piece], room[rank] = rank, room[rank] - 1
        if room[rank]:
            heapq.heappush(waiting, (load + float(work[piece]), rank))
    return owner


def finish_together(rows: np.ndarray, work: np.ndarray, ranks: int) -> np.ndarray:
    """The numbers of a batch's rows, ordered so that ranks which take equal parts of the batch, one after another, have
    nearly equal work. work: float64, of each of the rows."""
    return rows[np.argsort(deal(work, ranks), kind="stable")]
