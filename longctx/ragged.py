"""Arrays of unequal lengths: runs, one after the other, what two begin with, and places in ranges."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int


def ragged_arange(lengths: Int[np.ndarray, " runs"]) -> Int[np.ndarray, " total"]:
    """np.arange of every length, joined: lengths [2, 3] give [0, 1, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def common_prefix(a: Int[np.ndarray, " m"], b: Int[np.ndarray, " n"]) -> int:
    """How many of the first elements of two arrays are the same."""
    shorter = min(len(a), len(b))
    different = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(different[0]) if len(different) else shorter


def within(ranges: Iterable[tuple[int, int]], size: int) -> Bool[np.ndarray, " size"]:
    """Whether each of the places 0 to size - 1 lies in one of the ranges, each (first, the one behind the last)."""
    found = np.zeros(size, bool)
    for first, end in ranges:
        found[first:end] = True
    return found
