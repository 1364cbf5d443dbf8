"""Parts of sequences whose items are made when they are asked for. Free of jax."""

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar("Item")


class Lazy(Sequence[Item], Generic[Item]):
    """A sequence whose items are made by `item`, with an index from 0 on; a slice is a list."""

    def item(self, index: int) -> Item:
        """The item at an index below the length."""
        raise NotImplementedError

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.item(int(index) % len(self))


class Some(Lazy[Item]):
    """Some items of a sequence, by their numbers."""

    def __init__(self, whole: Sequence[Item], numbers: np.ndarray):
        self._whole, self._numbers = whole, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def item(self, index: int) -> Item:
        return self._whole[int(self._numbers[index])]

    def __iter__(self) -> Iterator[Item]:
        if 2 * len(self) < len(self._whole):
            return (self._whole[int(number)] for number in self._numbers)
        whole = list(self._whole)  # all at once, where that is faster than one by one
        return (whole[number] for number in self._numbers.tolist())


class Chained:
    """Two arrays of one dimension, one behind the other, of which nothing is copied but what is asked for."""

    def __init__(self, first: np.ndarray, second: np.ndarray):
        self._first, self._second = first, second
        self.dtype = np.result_type(first, second)

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """The values at a slice, or at an array of places from 0 on."""
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        behind = places >= len(self._first)
        found = np.empty(places.shape, self.dtype)
        found[~behind] = self._first[places[~behind]]
        found[behind] = self._second[places[behind] - len(self._first)]
        return found
