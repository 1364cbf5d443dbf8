"""Passes over things, each in an order of its own: the next one begins once all have been taken. Free of jax."""

import functools

import numpy as np


def taken(places: np.ndarray, count: int, seed: tuple[int, ...]) -> np.ndarray:
    """i64: which of `count` things are taken at the given places of an endless row of passes.

    seed: numbers that a numpy SeedSequence takes; the orders are a function of it.
    """
    passes, at = np.divmod(np.asarray(places), count)
    found = np.empty(len(at), np.int64)
    for number in np.unique(passes):
        of_pass = passes == number
        found[of_pass] = _order((*seed, int(number)), count)[at[of_pass]]
    return found


@functools.lru_cache(maxsize=32)
def _order(seed: tuple[int, ...], count: int) -> np.ndarray:
    """The order of one pass."""
    return np.random.default_rng(np.random.SeedSequence(seed)).permutation(count)
