"""Tokenised documents in one flat array, and rows of a packing cut out of it when they are asked for."""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from longctx.data.packing.packing import Packing
from longctx.data.sources import Document
from longctx.data.tokenizers import Tokenizer
from longctx.layouts import Reaches
from longctx.layouts.balanced import pairs
from longctx.ragged import ragged_arange

Encoded = tuple[np.ndarray, np.ndarray | None]  # all ids of a document; which count in the loss, None for all


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """All documents one after another, each as BOS tokens EOS where text was tokenised.

    ids: the smallest unsigned type that holds the vocabulary; starts i64[documents + 1]: document d is
    ids[starts[d]:starts[d + 1]], at least two tokens. names, texts: of each document, or none at all; a text is empty
    where the document came as tokens. counts: bool, of each token whether it counts in the loss where it is predicted;
    None where all do.
    """

    ids: np.ndarray
    starts: np.ndarray
    names: Sequence[str] = ()
    counts: np.ndarray | None = None
    texts: Sequence[bytes] = ()

    @property
    def inputs(self) -> np.ndarray:
        """i64[documents]: tokens of each document that predict a next one: all but its EOS."""
        return np.diff(self.starts) - 1

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the whole table."""
        sum_ = zlib.crc32(self.ids, zlib.crc32(self.starts))
        return sum_ if self.counts is None else zlib.crc32(np.packbits(self.counts), sum_)


def tokenize(documents: Sequence[Document], tokenizer: Tokenizer) -> TokenTable:
    """The table of the documents, in order. Raises UserError for a document that the tokenizer cannot take."""
    made = table(encoded(documents, tokenizer), tokenizer, [document.name for document in documents])
    return dataclasses.replace(made, texts=[document.text for document in documents])


def encoded(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Yields (all ids of a document, which of them count in the loss or None for all), in order."""
    for plain, group in itertools.groupby(documents, _is_plain):
        some = list(group)
        if plain:
            for ids in tokenizer.encode_batch([d.text for d in some], [d.name for d in some]):
                yield framed(ids, tokenizer), None
        else:
            yield from (_marked(document, tokenizer) for document in some)


def framed(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a text with BOS and EOS."""
    return np.concatenate([[tokenizer.bos], ids, [tokenizer.eos]])


def _is_plain(document: Document) -> bool:
    return document.ids is None and document.asked is None and not document.special


def _marked(document: Document, tokenizer: Tokenizer) -> Encoded:
    """A document that is tokenised already, or whose text has special tokens or parts that do not count.

    A token counts if its first byte does; EOS, if the last byte does.
    """
    if document.ids is not None:
        return document.ids, document.counts
    ids, spans = tokenizer.encode_with_spans(document.text, document.special, document.name)
    begun = document.special and ids[:1].tolist() == [tokenizer.bos]
    ids = framed(ids[1:] if begun else ids, tokenizer)
    if document.asked is None:
        return ids, None
    bytes_count = np.zeros(len(document.text) + 1, bool)
    for first, end in document.asked:
        bytes_count[first:end] = True
    first_bytes = spans[1:, 0] if begun else spans[:, 0]
    return ids, np.concatenate([[False], bytes_count[first_bytes], [bytes_count[len(document.text) - 1]]])


def table(documents: Iterable[Encoded], tokenizer: Tokenizer, names: Sequence[str] = ()) -> TokenTable:
    """The table of documents given as (all ids, which count in the loss or None)."""
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    parts, counts = [np.zeros(0, dtype)], []
    for ids, counted in documents:
        parts.append(ids.astype(dtype))
        counts.append(counted)
    starts = np.cumsum([*map(len, parts)], dtype=np.int64)
    if all(one is None for one in counts):
        return TokenTable(np.concatenate(parts), starts, names)
    whole = [np.ones(len(ids), bool) if one is None else one for ids, one in zip(parts[1:], counts, strict=True)]
    return TokenTable(np.concatenate(parts), starts, names, np.concatenate(whole))


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
        counts, piece, new = self._pieces(rows)
        heads = np.flatnonzero(new)
        work = work_of(np.add.reduceat(self.packing.length[piece], heads), reaches)
        return np.add.reduceat(work, np.searchsorted(heads, np.cumsum(counts) - counts))

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The given rows as a batch: arrays [B, T], int32 but for the weights, which are float32.

        tokens     the inputs of every piece in a row, one piece after another, then padding
        targets    the token after each of them in its document: EOS after the last. The shift is done here, once, so a
                   later permutation of the columns may treat all arrays alike, and a cut document loses no target
        weights    1, and 0 on padding and for targets that do not count
        positions  0, 1, ... from the start of each group of pieces; 0 on padding
        segments   1, 2, ... for the groups of a row; 0 on padding
        """
        packing, rows = self.packing, np.asarray(rows)
        counts, piece, new = self._pieces(rows)
        length, column = packing.length[piece], packing.column[piece]
        offset = ragged_arange(length)
        place = np.repeat(np.repeat(np.arange(len(rows)) * packing.capacity, counts) + column, length) + offset
        source = np.repeat(self.table.starts[packing.document[piece]] + packing.start[piece], length) + offset
        groups, firsts = np.cumsum(new), np.cumsum(counts) - counts
        segment = groups - np.repeat(groups[firsts], counts) + 1
        begun = column - column[np.flatnonzero(new)][groups - 1]  # tokens of the group before each piece

        def spread(values, fill, dtype):
            out = np.full(len(rows) * packing.capacity, fill, dtype)  # the flattened batch
            out[place] = values
            return out.reshape(len(rows), packing.capacity)  # BT

        return {
            "tokens": spread(self.table.ids[source], self.pad, np.int32),
            "targets": spread(self.table.ids[source + 1], self.pad, np.int32),
            "weights": spread(1 if self.table.counts is None else self.table.counts[source + 1], 0, np.float32),
            "positions": spread(np.repeat(begun, length) + offset, 0, np.int32),
            "segments": spread(np.repeat(segment, length), 0, np.int32),
        }

    def _pieces(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pieces in each of the rows, the number of each in the packing, whether it is the first of a group)."""
        first = self.packing.row_start[rows]
        counts = self.packing.row_start[rows + 1] - first
        number = ragged_arange(counts)
        piece, group = np.repeat(first, counts) + number, self.packing.group
        return counts, piece, (number == 0) | (group[piece] != group[piece - 1])
