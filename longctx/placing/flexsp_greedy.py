"""FlexSP's problem (arXiv 2412.01523) by bisection in place of an integer program, with a bound on what is lost."""

import numpy as np

from longctx.placing import batches
from longctx.placing.cost import Cost
from longctx.placing.placement import Placement

CLOSE = 0.01  # the width at which bisection ends


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """Groups of powers of two for documents of like needs, by bisection of the time that all may take."""
    return batches.plan(lengths, ranks, cost, solve)


def solve(lengths: np.ndarray, ranks: int, cost: Cost) -> batches.Groups | None:
    """[(ranks, documents)] of one step; None where the documents do not fit.

    For a time that no group may exceed, documents go longest first to the first group that has time and room left, or
    open a group of the fewest ranks on which they keep it. Within CLOSE of batches.least it stops: nothing is much
    better.
    """
    sizes, seconds, slots = batches.times(lengths, ranks, cost)
    low, most = batches.least(lengths, ranks, cost), float(seconds.max(0, where=seconds < np.inf, initial=0.0).sum())
    high, growth = (1 + CLOSE) * low, 1 + CLOSE
    while (best := _within(high, sizes, seconds, slots, ranks, cost.capacity)) is None:
        if high > most:
            return None
        growth = 2 * growth - 1
        low, high = high, high * growth
    while high > (1 + CLOSE) * low:
        middle = (low + high) / 2
        found = _within(middle, sizes, seconds, slots, ranks, cost.capacity)
        low, high, best = (middle, high, best) if found is None else (low, middle, found)
    return best


def _within(limit, sizes, seconds, slots, ranks, capacity):
    """Groups none of which takes longer than `limit`; None where the ranks do not suffice."""
    left, members, kind, time, room = ranks, [], [], [], []
    able = seconds <= limit
    smallest = able.argmax(axis=0).tolist()
    if not able.any(axis=0).all():
        return None
    order = np.argsort(-slots[0], kind="stable")
    for document, spent, places in zip(order.tolist(), seconds.T[order].tolist(), slots.T[order].tolist(), strict=True):
        for at, degree in enumerate(kind):
            if spent[degree] <= time[at] and places[degree] <= room[at]:
                break
        else:
            at, degree = len(members), smallest[document]
            left -= sizes[degree]
            if left < 0:
                return None
            members.append([])
            kind.append(degree)
            time.append(limit)
            room.append(capacity)
        members[at].append(document)
        time[at], room[at] = time[at] - spent[degree], room[at] - places[degree]
    return [(sizes[degree], np.array(group)) for degree, group in zip(kind, members, strict=True)]
