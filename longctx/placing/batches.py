"""A global batch cut into steps, each of which is divided into groups of ranks: FlexSP's outer loop."""

from collections.abc import Callable

import numpy as np

from longctx.errors import UserError
from longctx.placing import bins
from longctx.placing.cost import Cost, degrees
from longctx.placing.placement import Placement, groups

CLOSE = 1.02  # a plan so near to what no plan can beat is not improved
MORE = 2  # numbers of steps that are tried, from the first that works
Groups = list[tuple[int, np.ndarray]]  # (ranks, documents) of a step
Place = Callable[[np.ndarray, int], np.ndarray | None]  # (places of documents, bins) -> the bin of each, or None
Solve = Callable[[np.ndarray, int, Cost], Groups | None]


def plan(lengths: np.ndarray, ranks: int, cost: Cost, solve: Solve) -> Placement:
    """The Placement by the number of steps that takes least time; `solve` makes the groups of one, or None.

    Raises UserError where nothing works, not even each document in a step of its own.
    """
    best, tried, first = None, 0, bins.fewest(lengths, ranks, cost)
    for steps in range(first, len(lengths) + 1):
        found = _solved(lengths, ranks, cost, solve, steps)
        if found is not None:
            best = found if best is None or found[1] < best[1] else best
            tried += 1
        if best is not None and (tried == MORE or best[1] <= CLOSE * least(lengths, ranks, cost)):
            return groups(best[0], lengths, ranks, cost)
    if best is None:
        raise UserError(
            f"capacity={cost.capacity} tokens a rank: no groups of {ranks} ranks hold these {len(lengths)} documents; "
            f"a capacity of {int(cost.slots(lengths, degrees(ranks)[-1]).sum())} holds all of them."
        )
    return groups(best[0], lengths, ranks, cost)


def of_one_size(lengths: np.ndarray, ranks: int, cost: Cost, place: Place) -> Placement:
    """The Placement by groups of one size, the power of two by which the batch takes least time."""
    found = []
    for degree in degrees(ranks):
        slots, count = cost.slots(lengths, degree), ranks // degree
        if slots.max() > cost.capacity:
            continue  # a document does not fit on a group
        owner, _ = bins.in_fewest(
            lambda steps, slots=slots, count=count: place(slots, steps * count), slots, count, cost
        )
        found.append(bins.dealt(owner, cost.seconds(lengths, degree), count, degree))
    batches, _ = min(found, key=lambda x: x[1])
    return groups(batches, lengths, ranks, cost)


def _solved(lengths, ranks, cost, solve, steps):
    """(groups of each step, their time) of the documents cut into steps; None where a step has no solution."""
    batches = []
    for documents in cut(lengths, steps):
        batch = solve(lengths[documents], ranks, cost)
        if batch is None:
            return None
        batches.append([(degree, documents[members]) for degree, members in batch])
    return batches, sum(slowest(batch, lengths, cost) for batch in batches)


def slowest(batch: Groups, lengths: np.ndarray, cost: Cost) -> float:
    """Seconds of the group that takes longest."""
    return max(float(cost.seconds(lengths[documents], degree).sum()) for degree, documents in batch)


def cut(lengths: np.ndarray, steps: int) -> list[np.ndarray]:
    """The documents by length, longest first, in at most so many runs whose largest sum is the least possible.

    By bisection of that sum, which finds what a minimax dynamic program does.
    """
    order = np.argsort(-lengths, kind="stable")
    total = np.concatenate([[0], np.cumsum(lengths[order])])

    def ends(limit):
        found = [0]
        while found[-1] < len(lengths):
            found.append(int(np.searchsorted(total, total[found[-1]] + limit, side="right")) - 1)
        return found

    low, high = int(lengths.max()), int(total[-1])
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(ends(middle)) - 1 <= steps else (middle + 1, high)
    edge = ends(low)
    return [order[a:b] for a, b in zip(edge[:-1], edge[1:], strict=True)]


def times(lengths: np.ndarray, ranks: int, cost: Cost) -> tuple[list[int], np.ndarray, np.ndarray]:
    """(degrees [P], seconds [P, documents] of each on a group of so many ranks, inf where it does not fit, its places
    there)."""
    sizes = degrees(ranks)
    slots = np.stack([cost.slots(lengths, degree) for degree in sizes])
    seconds = np.stack([cost.seconds(lengths, degree) for degree in sizes])
    return sizes, np.where(slots <= cost.capacity, seconds, np.inf), slots


def least(lengths: np.ndarray, ranks: int, cost: Cost) -> float:
    """Seconds that groups of these ranks take at least, in however many steps.

    In M seconds a document is on a group that takes at most M for it; each where that is fewest seconds of ranks, they
    must not be more than the ranks have. The least M with that, by bisection to a thousandth.
    """
    sizes, seconds, _ = times(lengths, ranks, cost)
    spent = seconds * np.array(sizes)[:, None]
    low = max(float(seconds.min(0).max()), float(spent.min(0).sum()) / ranks)
    enough = lambda limit: np.where(seconds <= limit, spent, np.inf).min(0).sum() <= ranks * limit
    if enough(low):
        return low
    high = 2 * low
    while not enough(high):
        low, high = high, 2 * high
    while high > 1.001 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low
