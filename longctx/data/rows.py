"""Tokenised documents in one flat array, and rows of a packing cut out of it when they are asked for."""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from longctx.data.document import Document
from longctx.data.packing.embeddings import Embeddings
from longctx.data.packing.packing import Packing
from longctx.data.tokenizers import Tokenizer
from longctx.data.views import Some
from longctx.layouts import Reaches
from longctx.layouts.balanced import pairs
from longctx.ragged import ragged_arange, within

Encoded = tuple[np.ndarray, np.ndarray | None]  # all ids of a document; which count in the loss, None for all


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """All documents one after another, each as BOS tokens EOS where text was tokenised.

    ids: the smallest unsigned type that holds the vocabulary, perhaps memory-mapped, or views.Chained; starts, inputs
    i64[documents]: document d is ids[starts[d]:starts[d] + inputs[d] + 1], at least two tokens, of which the last is
    only predicted. names, texts: of each document, or none at all; a text is empty where the document came as tokens.
    counts: bool, of each token whether it counts in the loss where it is predicted; None where all do. checksum: of all
    ids and counts; None where it is not known yet. embeddings: vectors of the documents, for packings that compare
    them.
    """

    ids: np.ndarray
    starts: np.ndarray
    inputs: np.ndarray
    names: Sequence[str] = ()
    counts: np.ndarray | None = None
    texts: Sequence[bytes] = ()
    checksum: int | None = None
    embeddings: Embeddings | None = None

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the whole table."""
        of_tokens = self._of_tokens()
        return (
            of_tokens if self.embeddings is None else zlib.crc32(f"{self.embeddings.fingerprint}".encode(), of_tokens)
        )

    def _of_tokens(self) -> int:
        ends = self.starts + self.inputs + 1
        if self.checksum is not None:
            return zlib.crc32(ends, zlib.crc32(self.starts, self.checksum))
        sum_ = zlib.crc32(self.ids, zlib.crc32(np.append(self.starts, ends[-1:] if len(ends) else 0)))
        return sum_ if self.counts is None else zlib.crc32(np.packbits(self.counts), sum_)

    def chosen(self, documents: np.ndarray) -> "TokenTable":
        """The table of some of the documents, by their numbers; the tokens are not copied."""
        some = lambda values: Some(values, documents) if len(values) else ()
        return dataclasses.replace(
            self,
            starts=self.starts[documents],
            inputs=self.inputs[documents],
            names=some(self.names),
            texts=some(self.texts),
            checksum=self._of_tokens() if self.checksum is None else self.checksum,
            embeddings=self.embeddings and self.embeddings.chosen(documents),
        )


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
    """A document that is tokenised already, or whose text has special tokens or parts that do not count."""
    if document.ids is not None:
        return document.ids, document.counts
    found = spelled(document, tokenizer)
    return found.ids, found.counts


class Spelled(NamedTuple):
    """A document as tokens: all ids; the bytes that each stands for, but of BOS and EOS, int64[n - 2, 2]; and which
    count in the loss, None for all."""

    ids: np.ndarray
    spans: np.ndarray
    counts: np.ndarray | None


def spelled(document: Document, tokenizer: Tokenizer) -> Spelled:
    """The tokens of a document that has a text.

    A token counts if its first byte does; EOS, if the last byte does. A text with special tokens may begin with BOS and
    end with EOS itself, and one that ends with another special token has its end: EOS behind that does not count.
    """
    ids, spans = tokenizer.encode_with_spans(document.text, document.special, document.name)
    begun = document.special and ids[:1].tolist() == [tokenizer.bos]
    ended = document.special and len(ids) > begun and ids[-1] == tokenizer.eos
    closed = document.special and len(ids) > 0 and not tokenizer.writes(int(ids[-1]))
    inside = slice(int(begun), len(ids) - ended)
    ids, spans = framed(ids[inside], tokenizer), spans[inside]
    if document.asked is None:
        return Spelled(ids, spans, None)
    bytes_count = within(document.asked, len(document.text) + 1)
    end_counts = bytes_count[len(document.text) - 1] and (ended or not closed)
    return Spelled(ids, spans, np.concatenate([[False], bytes_count[spans[:, 0]], [end_counts]]))


def table(documents: Iterable[Encoded], tokenizer: Tokenizer, names: Sequence[str] = ()) -> TokenTable:
    """The table of documents given as (all ids, which count in the loss or None)."""
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    parts, counts = [np.zeros(0, dtype)], []
    for ids, counted in documents:
        parts.append(ids.astype(dtype))
        counts.append(counted)
    ends = np.cumsum([*map(len, parts)], dtype=np.int64)
    marks = None
    if any(one is not None for one in counts):
        whole = [np.ones(len(ids), bool) if one is None else one for ids, one in zip(parts[1:], counts, strict=True)]
        marks = np.concatenate(whole)
    return TokenTable(np.concatenate(parts), ends[:-1], np.diff(ends) - 1, names, marks)


def work_of(lengths: np.ndarray, reaches: Reaches, window: int | None = None) -> np.ndarray:
    """f64: the pairs of tokens that attention takes in documents of these lengths, over layers as Layout.owner knows
    them. window: tokens after which documents are cut, again and again; None where they are whole."""
    if window is not None:
        windows, rest = np.divmod(lengths, window)
        return windows * work_of(np.array(window), reaches) + work_of(rest, reaches)
    return sum(layers * pairs(lengths, reach) for reach, layers in reaches)


class Dropped(NamedTuple):
    """What is in no row: documents as a whole, and tokens of these and of documents that are shortened."""

    documents: int = 0
    tokens: int = 0


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """The rows of a packing of a table's inputs. dropped: what data.too_long took out of it before."""

    table: TokenTable
    packing: Packing
    pad: int
    dropped: Dropped = Dropped()

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
        """The tokens of the text that are in no row."""
        return self.packing.left_out + self.dropped.tokens

    def work(self, reaches: Reaches, rows: np.ndarray, window: int | None = None) -> np.ndarray:
        """f64 [rows]: pairs of tokens that attention takes in each of the given rows, see work_of."""
        lengths, first = self._documents(rows)
        return np.add.reduceat(work_of(lengths, reaches, window), first)

    def longest(self, rows: np.ndarray) -> np.ndarray:
        """i64 [rows]: the tokens of the longest document in each of the given rows."""
        return np.maximum.reduceat(*self._documents(rows))

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

    def _documents(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the tokens of each document of the rows, the number of the first one of each row)."""
        counts, piece, new = self._pieces(rows)
        heads = np.flatnonzero(new)
        return np.add.reduceat(self.packing.length[piece], heads), np.searchsorted(heads, np.cumsum(counts) - counts)

    def _pieces(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pieces in each of the rows, the number of each in the packing, whether it is the first of a group)."""
        first = self.packing.row_start[rows]
        counts = self.packing.row_start[rows + 1] - first
        number = ragged_arange(counts)
        piece, group = np.repeat(first, counts) + number, self.packing.group
        return counts, piece, (number == 0) | (group[piece] != group[piece - 1])
