"""DistCA (arXiv 2510.18121): tokens stay where they are, and attention moves to ranks that have less of it."""

import numpy as np

from longctx.placing import bins
from longctx.placing.cost import Cost, pairs
from longctx.placing.placement import PADDING, Draft, Placement

TOLERANCE = 0.1  # of the busiest rank's attention above the mean


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """Documents one after another, cut into equally many tokens for each rank, then attention evened among the ranks.

    h queries from either end of a run [a, b) have h * (a + b + 1) pairs, wherever the run was cut before: so any amount
    of work is moved in whole queries, and what is left is a run again. The rank with the largest deficit takes first
    what costs the fewest bytes by pair, each time with all keys up to its end, from ranks above the mean. As published,
    ranks are filled up; here that goes on until none is more than TOLERANCE above the mean.
    """
    draft = Draft(ranks)
    by_tokens = lambda steps: bins.least_work(lengths, lengths, steps, ranks * cost.capacity)
    owner, steps = bins.in_fewest(by_tokens, lengths, ranks, cost)
    for step in range(steps):
        documents = np.flatnonzero(owner == step)
        document, first, end, rank = runs = _cut(documents, lengths[documents], ranks)
        held = np.bincount(rank, end - first, ranks).astype(np.int64)
        draft.home(document, first, end, rank, step)
        draft.home(PADDING, 0, held.max() - held, np.arange(ranks), step)
        for moved in _evened(*runs, ranks, cost):
            draft.attend(*moved, step=step)
    return draft.done(steps, together=ranks > 1)


def _cut(documents, lengths, ranks):
    """(document, first, end, rank) of documents laid one after another over ranks of equally many tokens."""
    start, total = np.cumsum(lengths) - lengths, int(lengths.sum())
    share = -(-total // ranks)
    edge = np.union1d(start, np.arange(0, total, share))
    at = np.searchsorted(start, edge, side="right") - 1
    first = edge - start[at]
    return documents[at], first, first + np.diff(edge, append=total), edge // share


def _evened(document, first, end, rank, ranks, cost):
    """[(document, first, end, rank)] of attention: what was moved, then what stays."""
    first, end, moved = first.copy(), end.copy(), []
    load = np.bincount(rank, pairs(end) - pairs(first), ranks)
    mean = load.mean()
    while load.max() > (1 + TOLERANCE) * mean:
        taker = int(load.argmin())
        row = first + end + 1.0  # pairs of a query from the front and one from the back, together
        wanted = np.minimum(mean - load[taker], load[rank] - mean)
        half = np.minimum((wanted // row).astype(np.int64), (end - first) // 2)
        whole = (half > 0) & (half == (end - first) // 2)
        queries, taken = np.where(whole, end - first, 2 * half), np.where(whole, pairs(end) - pairs(first), half * row)
        able = (half > 0) & (taken < load[rank] - load[taker])
        if not able.any():
            break
        price = (queries * cost.query_bytes + end * cost.key_bytes) / np.maximum(taken, 1)
        at = int(np.where(able, price, np.inf).argmin())
        front = end[at] if whole[at] else first[at] + half[at]
        back = end[at] if whole[at] else end[at] - half[at]
        moved += [(document[at], first[at], front, taker), (document[at], back, end[at], taker)]
        load[rank[at]], load[taker] = load[rank[at]] - taken[at], load[taker] + taken[at]
        first[at], end[at] = front, back
    return [*moved, (document, first, end, rank)]
