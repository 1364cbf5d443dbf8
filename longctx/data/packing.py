"""Best-fit-decreasing packing of whole documents into rows (Ding et al. 2024, "Fewer Truncations ..."), and rows dealt
out such that those who take them finish together."""

import bisect
import dataclasses
import heapq

import numpy as np

from longctx.ragged import ragged_arange


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which piece of which document lies where. Pieces are sorted by row, then by column.

    document i64[P]: index of the document      column    i64[P]: where the piece starts in its row
    start    i64[P]: where it starts in there   row_start i64[R + 1]: row r holds the pieces from row_start[r] up to
    length   i64[P]                                       row_start[r + 1]
    """

    capacity: int
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    column: np.ndarray
    row_start: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.row_start) - 1

    @property
    def waste(self) -> float:
        """The share of all places in rows that hold padding."""
        return 1 - int(self.length.sum()) / (self.rows * self.capacity) if self.rows else 0.0


def pack(lengths: np.ndarray, capacity: int) -> Packing:
    """Packs documents of the given lengths (>= 1) into rows of `capacity` places.

    A document longer than a row is split into full rows and a rest; the rest, like every other document, stays whole
    and goes, longest first, to the row with the least space that still takes it. O(N log N), and the shifting of a
    sorted list of the distinct spaces left (at most min(rows, capacity)). Equal inputs give equal packings.
    """
    lengths = np.asarray(lengths, np.int64)
    if capacity < 1 or (lengths < 1).any():
        raise ValueError(f"capacity {capacity} and all lengths must be at least 1.")
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
    order = np.argsort(row, kind="stable")
    document, start, length, row = document[order], start[order], length[order], row[order]

    pieces = np.bincount(row)  # no row is empty
    row_start = np.concatenate([[0], np.cumsum(pieces)])
    end = np.cumsum(length) - length
    column = end - np.repeat(end[row_start[:-1]], pieces)
    return Packing(capacity, document, start, length, column, row_start)


def deal(work: np.ndarray, ranks: int) -> np.ndarray:
    """i64: the rank of each piece of work, equally many for all: the most work first, to the rank that has least among
    those that have room. Ties go to the first. `ranks` divides the pieces."""
    room, owner, waiting = [len(work) // ranks] * ranks, np.empty(len(work), np.int64), [(0.0, r) for r in range(ranks)]
    for piece in np.argsort(-work, kind="stable"):
        load, rank = heapq.heappop(waiting)
        owner[piece], room[rank] = rank, room[rank] - 1
        if room[rank]:
            heapq.heappush(waiting, (load + work[piece], rank))
    return owner


def finish_together(rows: np.ndarray, work: np.ndarray, ranks: int) -> np.ndarray:
    """The numbers of a batch's rows, ordered so that ranks which take equal parts of the batch, one after another, have
    nearly equal work. work: float64, of each of the rows."""
    return rows[np.argsort(deal(work, ranks), kind="stable")]


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
