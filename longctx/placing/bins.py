"""Documents into bins with room for so many tokens: what the schemes have in common."""

from collections.abc import Callable

import numpy as np

from longctx.placing.cost import Cost


def first_fit(slots: np.ndarray, bins: int, room: int) -> np.ndarray | None:
    """The bin of each document, largest first, to the first bin that has room; None where one has none."""
    used, owner = np.zeros(bins, np.int64), np.empty(len(slots), np.int64)
    for document in np.argsort(-slots, kind="stable"):
        need = slots[document]
        at = int((used + need <= room).argmax())
        if used[at] + need > room:
            return None
        owner[document], used[at] = at, used[at] + need
    return owner


def tightest(slots: np.ndarray, bins: int, room: int) -> np.ndarray | None:
    """First fit into bins of the least room for which it works; None where it does not for `room`."""
    best = first_fit(slots, bins, room)
    low = max(int(slots.max()), -(-int(slots.sum()) // bins))
    high = room
    while best is not None and high - low > max(low // 100, 1):
        middle = (low + high) // 2
        found = first_fit(slots, bins, middle)
        low, high, best = (middle, high, best) if found is None else (low, middle, found)
    return best


def least_work(work: np.ndarray, slots: np.ndarray, bins: int, room: int) -> np.ndarray | None:
    """The bin of each document, most work first, to the bin of least work among those that have room; None where none
    has."""
    load, used, owner = np.zeros(bins), np.zeros(bins, np.int64), np.empty(len(work), np.int64)
    for document in np.argsort(-work, kind="stable"):
        fits = used + slots[document] <= room
        if not fits.any():
            return None
        at = np.where(fits, load, np.inf).argmin()
        owner[document] = at
        load[at], used[at] = load[at] + work[document], used[at] + slots[document]
    return owner


def fewest(slots: np.ndarray, groups: int, cost: Cost) -> int:
    """The number of steps below which the tokens do not fit on so many groups."""
    return max(1, -(-int(slots.sum()) // (groups * cost.capacity)))


def in_fewest(place: Callable[[int], np.ndarray | None], slots: np.ndarray, groups: int, cost: Cost):
    """(the bin of each document, steps) of the fewest steps by which `place`, steps -> bins or None, has bins."""
    steps = fewest(slots, groups, cost)
    while (owner := place(steps)) is None:
        steps += 1
    return owner, steps


def dealt(owner: np.ndarray, seconds: np.ndarray, groups: int, degree: int) -> tuple[list, float]:
    """(steps of groups [(degree, documents)], their time): bins of like time share a step of `groups` bins."""
    spent = np.bincount(owner, seconds)
    order = np.argsort(-spent, kind="stable")
    steps = [order[i : i + groups] for i in range(0, len(order), groups)]
    batches = [[(degree, np.flatnonzero(owner == at)) for at in step] for step in steps]
    return batches, float(sum(spent[step[0]] for step in steps))
