"""The interface of ways to pack documents into rows: what a way takes, and the Packing that it makes.

To add one: a file here with a function (text, capacity, rng) -> Packing, or (lengths, capacity, rng) -> Packing where
nothing but the lengths matters, and a line in PACKINGS of api.py. The tests then hold it to the law: every token of
every document lies in exactly one place, or is counted in `left_out`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from longctx.data.packing.embeddings import Embeddings


class Text(Protocol):
    """What a way to pack is told of the documents: longctx.data.rows.TokenTable has it."""

    @property
    def inputs(self) -> np.ndarray:
        """i64[documents]: tokens of each that predict a next one, which is what lies in rows; all at least 1."""
        ...

    @property
    def ids(self) -> np.ndarray:
        """All tokens: the inputs of document d are ids[starts[d]:starts[d] + inputs[d]]."""
        ...

    @property
    def starts(self) -> np.ndarray:
        """i64[documents]: where each begins in ids."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The name of each document: its path below data.path. None at all where documents have no names."""
        ...

    @property
    def texts(self) -> Sequence[bytes]:
        """The text of each document, empty where it came as tokens. None at all where there are no texts."""
        ...

    @property
    def embeddings(self) -> Embeddings | None:
        """Vectors of the documents by which they are compared; None where their tokens tell."""
        ...


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which piece of which document lies where. Pieces are sorted by row, then by column.

    document i64[P]: index of the document      column    i64[P]: where the piece starts in its row
    start    i64[P]: where it starts in there   row_start i64[R + 1]: row r holds the pieces from row_start[r] up to
    length   i64[P]                                       row_start[r + 1]
    group    i64[P]: pieces of one group in a row, which stand together, are one document to the model: each sees those
                     before it, and positions go on. Numbers differ wherever groups do, between rows too
    left_out: tokens that lie in no row
    """

    capacity: int
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    column: np.ndarray
    row_start: np.ndarray
    group: np.ndarray
    left_out: int = 0

    @property
    def rows(self) -> int:
        return len(self.row_start) - 1

    @property
    def waste(self) -> float:
        """The share of all places in rows that hold padding."""
        return 1 - int(self.length.sum()) / (self.rows * self.capacity) if self.rows else 0.0


# (the documents, places of a row, numbers for what is drawn) -> the rows
Pack = Callable[[Text, int, np.random.Generator], Packing]
PackLengths = Callable[[np.ndarray, int, np.random.Generator], Packing]  # i64[documents]: the inputs of each


def by_lengths(pack: PackLengths) -> Pack:
    """The way to pack that looks at nothing of the documents but how long they are."""

    @functools.wraps(pack)
    def of_text(text: Text, capacity: int, rng: np.random.Generator) -> Packing:
        return pack(text.inputs, capacity, rng)

    return of_text


def in_rows(capacity: int, document, start, length, row, left_out: int = 0, group=None) -> Packing:
    """The Packing of pieces given in any order, each with its row, from which no number below the largest is missing.

    In a row the pieces lie in the order in which they are given, one directly after the other. group: None, every piece
    is a document of its own; the array of rows, all pieces of a row are one.
    """
    group = np.arange(len(row)) if group is None else group
    document, start, length, group = (np.asarray(x, np.int64) for x in (document, start, length, group))
    pieces = np.bincount(row)
    if (row[1:] < row[:-1]).any():  # of tens of millions of pieces each copy is hundreds of megabytes
        order = np.argsort(row, kind="stable")
        document, start, length, group = document[order], start[order], length[order], group[order]
    row_start = np.concatenate([[0], np.cumsum(pieces)])
    column = np.cumsum(length)
    column -= length
    column -= np.repeat(column[row_start[:-1]], pieces)
    return Packing(capacity, document, start, length, column, row_start, group, left_out)


def cut(lengths: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pieces that lie one after another, cut where one ends and at the places `at`.

    lengths: all at least 1; at: ascending, 0 the first, all below the sum; repeated ones cut once. Returns of each
    part, in order, the piece it is of, where it starts in there, its length, and which of `at` it lies behind.
    """
    begin = np.cumsum(lengths) - lengths
    first = np.concatenate([begin, at]).astype(np.int64, copy=False)
    first.sort(kind="stable")  # two sorted runs: linear
    first = first[np.concatenate([[True], first[1:] > first[:-1]])[: len(first)]]
    piece = np.searchsorted(begin, first, side="right") - 1
    part = np.searchsorted(at, first, side="right") - 1
    return piece, first - begin[piece], np.diff(first, append=np.sum(lengths)), part


def full_rows(capacity: int, document, start, length, left_out: int = 0, joined: bool = False) -> Packing:
    """The Packing of pieces in their order, cut wherever a row is full. joined: the pieces of a row are one document to
    the model."""
    piece, offset, length, row = cut(length, np.arange(0, np.sum(length), capacity))
    return in_rows(capacity, document[piece], start[piece] + offset, length, row, left_out, row if joined else None)


def check(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The lengths as i64. Raises ValueError for empty documents and rows."""
    lengths = np.asarray(lengths, np.int64)
    if capacity < 1 or (lengths < 1).any():
        raise ValueError(f"capacity {capacity} and all lengths must be at least 1.")
    return lengths
