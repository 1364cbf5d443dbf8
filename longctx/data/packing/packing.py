"""The interface of ways to pack documents into rows: what a way takes, and the Packing that it makes.

To add one: a file here with a function (lengths, capacity, rng) -> Packing, and a line in PACKINGS of api.py. The tests
then hold it to the law: every token of every document lies in exactly one place, or is counted in `left_out`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which piece of which document lies where. Pieces are sorted by row, then by column.

    document i64[P]: index of the document      column    i64[P]: where the piece starts in its row
    start    i64[P]: where it starts in there   row_start i64[R + 1]: row r holds the pieces from row_start[r] up to
    length   i64[P]                                       row_start[r + 1]
    left_out: tokens that lie in no row
    """

    capacity: int
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    column: np.ndarray
    row_start: np.ndarray
    left_out: int = 0

    @property
    def rows(self) -> int:
        return len(self.row_start) - 1

    @property
    def waste(self) -> float:
        """The share of all places in rows that hold padding."""
        return 1 - int(self.length.sum()) / (self.rows * self.capacity) if self.rows else 0.0


# (i64[documents]: tokens of each, all at least 1; places of a row; numbers for what is drawn) -> the rows
Pack = Callable[[np.ndarray, int, np.random.Generator], Packing]


def in_rows(capacity: int, document, start, length, row, left_out: int = 0) -> Packing:
    """The Packing of pieces given in any order, each with its row, from which no number below the largest is missing.

    In a row the pieces lie in the order in which they are given, one directly after the other.
    """
    order = np.argsort(row, kind="stable")
    document, start, length, row = (np.asarray(x, np.int64)[order] for x in (document, start, length, row))
    pieces = np.bincount(row)
    row_start = np.concatenate([[0], np.cumsum(pieces)])
    end = np.cumsum(length) - length
    column = end - np.repeat(end[row_start[:-1]], pieces)
    return Packing(capacity, document, start, length, column, row_start, left_out)


def check(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The lengths as i64. Raises ValueError for empty documents and rows."""
    lengths = np.asarray(lengths, np.int64)
    if capacity < 1 or (lengths < 1).any():
        raise ValueError(f"capacity {capacity} and all lengths must be at least 1.")
    return lengths
