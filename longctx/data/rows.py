"""Tokenised documents in one flat array, and rows of a packing cut out of it when they are asked for."""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from longctx.data.packing.packing import Packing
from longctx.data.sources import Document
from longctx.data.tokenizers import Tokenizer
from longctx.layouts import Reaches
from longctx.layouts.balanced import pairs
from longctx.ragged import ragged_arange


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """All documents one after another, each as BOS tokens EOS.

    ids: the smallest unsigned type that holds the vocabulary; starts i64[documents + 1]: document d is
    ids[starts[d]:starts[d + 1]].
    """

    ids: np.ndarray
    starts: np.ndarray

    @property
    def inputs(self) -> np.ndarray:
        """i64[documents]: tokens of each document that predict a next one: all but its EOS."""
        return np.diff(self.starts) - 1

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the whole table."""
        return zlib.crc32(self.ids, zlib.crc32(self.starts))


def tokenize(documents: Sequence[Document], tokenizer: Tokenizer) -> TokenTable:
    """The table of the documents, in order. Raises UserError for a document that the tokenizer cannot take."""
    return table(tokenizer.encode_batch([d.text for d in documents], [d.name for d in documents]), tokenizer)


def table(encoded: Iterable[np.ndarray], tokenizer: Tokenizer) -> TokenTable:
    """The table of documents given as ids without BOS and EOS."""
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    bos, eos = np.array([tokenizer.bos], dtype), np.array([tokenizer.eos], dtype)
    parts, lengths = [], []
    for ids in encoded:
        parts += [bos, ids.astype(dtype), eos]
        lengths.append(len(ids) + 2)
    return TokenTable(np.concatenate(parts or [bos[:0]]), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def work_of(lengths: np.ndarray, reaches: Reaches) -> np.ndarray:
    """f64: the pairs of tokens that attention takes in documents of these lengths, over layers as Layout.owner knows
    them."""
    return sum(layers * pairs(lengths, reach) for reach, layers in reaches)


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """The rows of a packing of a table's inputs."""

    table: TokenTable
    packing: Packing
    pad: int

    def __len__(self) -> int:
        return self.packing.rows

    @property
    def fingerprint(self) -> int:
        """The checksum of the table."""
        return self.table.fingerprint

    @property
    def waste(self) -> float:
        """The share of all slots that is padding."""
        return self.packing.waste

    @property
    def left_out(self) -> int:
        """The tokens of the table that are in no row."""
        return self.packing.left_out

    def work(self, reaches: Reaches, rows: np.ndarray) -> np.ndarray:
        """f64 [rows]: pairs of tokens that attention takes in each of the given rows, over layers as Layout.owner knows
        them."""
        counts, _, piece = self._pieces(rows)
        return np.add.reduceat(work_of(self.packing.length[piece], reaches), np.cumsum(counts) - counts)

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The given rows as a batch: arrays [B, T], int32 but for the weights, which are float32.

        tokens     the inputs of every piece in a row, one piece after another, then padding
        targets    the token after each of them in its document: EOS after the last. The shift is done here, once, so a
                   later permutation of the columns may treat all arrays alike, and a cut document loses no target
        weights    1, and 0 on padding
        positions  0, 1, ... from the start of each piece; 0 on padding
        segments   1, 2, ... for the pieces of a row; 0 on padding
        """
        packing, rows = self.packing, np.asarray(rows)
        counts, segment, piece = self._pieces(rows)
        length = packing.length[piece]
        position = ragged_arange(length)
        first_place = np.repeat(np.arange(len(rows)) * packing.capacity, counts) + packing.column[piece]
        place = np.repeat(first_place, length) + position  # in the flattened batch
        source = np.repeat(self.table.starts[packing.document[piece]] + packing.start[piece], length) + position

        def spread(values, fill, dtype):
            out = np.full(len(rows) * packing.capacity, fill, dtype)
            out[place] = values
            return out.reshape(len(rows), packing.capacity)  # BT

        return {
            "tokens": spread(self.table.ids[source], self.pad, np.int32),
            "targets": spread(self.table.ids[source + 1], self.pad, np.int32),
            "weights": spread(1, 0, np.float32),
            "positions": spread(position, 0, np.int32),
            "segments": spread(np.repeat(segment + 1, length), 0, np.int32),
        }

    def _pieces(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pieces in each of the rows, the number of each piece in its row, its number in the packing)."""
        first = self.packing.row_start[rows]
        counts = self.packing.row_start[rows + 1] - first
        number = ragged_arange(counts)
        return counts, number, np.repeat(first, counts) + number
