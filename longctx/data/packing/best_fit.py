"""Best-fit-decreasing packing of whole documents (Ding et al. 2024, "Fewer Truncations ...")."""

import bisect

import numpy as np

from longctx.data.packing.packing import Packing, check, in_rows
from longctx.ragged import ragged_arange


def pack(lengths: np.ndarray, capacity: int, rng: np.random.Generator | None = None) -> Packing:
    """Packs documents of the given lengths (>= 1) into rows of `capacity` places.

    A document longer than a row is split into full rows and a rest; the rest, like every other document, stays whole
    and goes, longest first, to the row with the least space that still takes it. O(N log N), and the shifting of a
    sorted list of the distinct spaces left (at most min(rows, capacity)). Nothing is drawn.
    """
    lengths = check(lengths, capacity)
    full, rest = np.divmod(lengths, capacity)
    full_document = np.repeat(np.arange(len(lengths)), full)
    full_start = ragged_arange(full) * capacity
    rest_document = np.flatnonzero(rest)
    rest_document = rest_document[np.argsort(-rest[rest_document], kind="stable")]
    rest_row = _best_fit(rest[rest_document].tolist(), capacity)

    document = np.concatenate([full_document, rest_document])
    start = np.concatenate([full_start, (full * capacity)[rest_document]])
    length = np.concatenate([np.full(len(full_document), capacity, np.int64), rest[rest_document]])
    row = np.concatenate([np.arange(len(full_document)), len(full_document) + rest_row])
    return in_rows(capacity, document, start, length, row)


def _best_fit(lengths: list[int], capacity: int) -> np.ndarray:
    """The row of each length, in the given (decreasing) order; every length is at most capacity."""
    rows, spaces, by_space = 0, [], {}  # spaces: the distinct spaces left, sorted; by_space: the rows with each
    chosen = []
    for length in lengths:
        at = bisect.bisect_left(spaces, length)
        if at < len(spaces):
            space = spaces[at]
            row = by_space[space].pop()
            if not by_space[space]:
                del by_space[space], spaces[at]
        else:
            space, row, rows = capacity, rows, rows + 1
        chosen.append(row)
        left = space - length
        if left in by_space:
            by_space[left].append(row)
        elif left:
            bisect.insort(spaces, left)
            by_space[left] = [row]
    return np.array(chosen, np.int64)
