"""Rows of several sources, numbered one source after another."""

import dataclasses
import zlib
from typing import Protocol

import numpy as np

from longctx.data import passes
from longctx.data.loss_weights import weighted
from longctx.layouts import Reaches


class Rows(Protocol):
    """Rows of tokens by number. gather: a batch of them, of the arrays that PackedRows.gather documents.

    fingerprint: a checksum of what they are made from. longest: i64, the tokens of the longest document in each of the
    given rows.
    """

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> int: ...

    def longest(self, rows: np.ndarray) -> np.ndarray: ...

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]: ...


class TextRows(Rows, Protocol):
    """Rows of documents. waste: the share of all slots that is padding. left_out: tokens that are in no row.

    work: f64, the pairs of tokens that attention takes in each of the given rows, over layers as Layout.owner knows
    them; window: tokens after which longctx.data.windows cuts documents, None where they are whole.
    """

    @property
    def waste(self) -> float: ...

    @property
    def left_out(self) -> int: ...

    def work(self, reaches: Reaches, rows: np.ndarray, window: int | None = None) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Repeated:
    """`count` rows of others, each read about equally often: every pass takes them in a new order, the last a part.

    seed: numbers that a numpy SeedSequence takes; the order is a function of it.
    """

    rows: TextRows
    count: int
    seed: tuple[int, ...]

    def __len__(self) -> int:
        return self.count

    @property
    def fingerprint(self) -> int:
        """A checksum of the rows, how many there are and their order."""
        return zlib.crc32(repr((self.count, self.seed)).encode(), self.rows.fingerprint)

    @property
    def waste(self) -> float:
        """The share of all slots that is padding."""
        return self.rows.waste

    @property
    def left_out(self) -> int:
        """The tokens that are in no row, whether it is read or not."""
        return self.rows.left_out

    @property
    def epochs(self) -> float:
        """How often each row is read."""
        return self.count / len(self.rows)

    def work(self, reaches: Reaches, rows: np.ndarray, window: int | None = None) -> np.ndarray:
        """f64 [rows]: the work of the given rows."""
        return self.rows.work(reaches, self._numbers(rows), window)

    def longest(self, rows: np.ndarray) -> np.ndarray:
        """i64 [rows]: the tokens of the longest document in each of the given rows."""
        return self.rows.longest(self._numbers(rows))

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The given rows as a batch."""
        return self.rows.gather(self._numbers(rows))

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        return passes.taken(rows, len(self.rows), self.seed)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The rows of each source in turn: row n of the second one has number len(first) + n.

    exponent: what a document of n targets counts is n^exponent, see longctx.data.loss_weights.
    """

    sources: tuple[TextRows, ...]
    exponent: float = 1.0

    @property
    def fingerprint(self) -> int:
        """A checksum of what all sources are made from."""
        first, *others = (source.fingerprint for source in self.sources)
        return zlib.crc32(b"".join(number.to_bytes(8, "little") for number in others), first)  # of one source, its own

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    @property
    def waste(self) -> float:
        """The share of all slots that is padding."""
        return sum(source.waste * len(source) for source in self.sources) / max(1, len(self))

    @property
    def left_out(self) -> int:
        """The tokens that are in no row of their source."""
        return sum(source.left_out for source in self.sources)

    def work(self, reaches: Reaches, rows: np.ndarray, window: int | None = None) -> np.ndarray:
        """f64 [rows]: the work of the given rows, as their sources tell it."""
        found = np.empty(len(rows))
        for source, at, numbers in self._by_source(rows):
            found[at] = source.work(reaches, numbers, window)
        return found

    def longest(self, rows: np.ndarray) -> np.ndarray:
        """i64 [rows]: the tokens of the longest document in each of the given rows."""
        found = np.empty(len(rows), np.int64)
        for source, at, numbers in self._by_source(rows):
            found[at] = source.longest(numbers)
        return found

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The given rows as a batch: the arrays that PackedRows.gather documents; and of several sources, as
        "sources" bool [B, sources], the one that each row is of."""
        places, batches = [], []
        for source, at, numbers in self._by_source(rows):
            places.append(at)
            batches.append(source.gather(numbers))
        order = np.argsort(np.concatenate(places))
        batch = {name: np.concatenate([batch[name] for batch in batches])[order] for name in batches[0]}
        batch = weighted(batch, self.exponent)
        count = len(self.sources)
        return batch | ({"sources": self._owner(rows)[:, None] == np.arange(count)} if count > 1 else {})

    def _owner(self, rows: np.ndarray) -> np.ndarray:
        """int [rows]: the number of the source of each of the given rows."""
        return np.searchsorted(np.cumsum([len(source) for source in self.sources]), rows, side="right")

    def _by_source(self, rows: np.ndarray):
        """Yields (source, places in `rows`, numbers of its rows) of the sources that have any."""
        ends, owner = np.cumsum([len(source) for source in self.sources]), self._owner(rows)
        for i, source in enumerate(self.sources):
            at = np.flatnonzero(owner == i)
            if len(at):
                yield source, at, np.asarray(rows)[at] - (ends[i] - len(source))
