"""Rows of generated documents, each made when it is asked for: as many as are read, and no more."""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Generated, Made, log_uniform
from longctx.data.packing.packing import in_rows
from longctx.data.rows import Encoded, PackedRows, framed, table, work_of
from longctx.data.tokenizers import Tokenizer
from longctx.layouts import Reaches

SAMPLE = 64  # rows that tell how much of a row is padding


@dataclasses.dataclass(frozen=True)
class GeneratedRows:
    """`count` rows of `length` tokens, full of documents of one task.

    A row is a function of (seed, length, its number, the documents): the lengths of its documents are drawn first, each
    log-uniform up to the room that is left, and the last one fills the row.

    seed: numbers that a numpy SeedSequence takes. documents: the text that the run trains on. answers_alone: whether
    only the tokens of the answers count in the loss.
    """

    task: Generated
    tokenizer: Tokenizer
    documents: Sequence[Document]
    length: int
    count: int
    seed: tuple[int, ...]
    answers_alone: bool = False
    left_out = 0

    def __len__(self) -> int:
        return self.count

    @property
    def fingerprint(self) -> int:
        """A checksum of the task, the seed and the number of rows: of the documents, PackedRows has one."""
        made_from = (self.task, self.seed, self.length, self.count, *("answers",) * self.answers_alone)
        return zlib.crc32(repr(made_from).encode())

    @property
    def waste(self) -> float:
        """The share of slots that no document was drawn for, in the first rows."""
        first = range(min(self.count, SAMPLE))
        filled = sum(sum(self._lengths(self._rng(number))) for number in first)
        return 1 - filled / (len(first) * self.length) if first else 0.0

    def work(self, reaches: Reaches, rows: np.ndarray, window: int | None = None) -> np.ndarray:
        """f64 [rows]: PackedRows.work of the given rows, were every document as long as it was drawn."""
        lengths = (np.array(self._lengths(self._rng(number))) for number in rows)
        return np.array([work_of(of_row, reaches, window).sum() for of_row in lengths], float)

    def longest(self, rows: np.ndarray) -> np.ndarray:
        """i64 [rows]: the tokens of the longest document that was drawn for each of the given rows."""
        return np.array([max(self._lengths(self._rng(number))) for number in rows], np.int64)

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The given rows as a batch: the arrays that PackedRows.gather documents."""
        made = [self._documents(number) for number in rows]
        text = table((self._encoded(one) for row in made for one in row), self.tokenizer)
        row, everything = np.repeat(np.arange(len(made)), [*map(len, made)]), np.arange(len(text.inputs))
        packing = in_rows(self.length, everything, np.zeros_like(everything), text.inputs, row)
        return PackedRows(text, packing, self.tokenizer.pad).gather(np.arange(len(made)))

    def _encoded(self, made: Made) -> Encoded:
        """A document with its start and end, and what counts of it; its end does where the last token does."""
        counts = np.concatenate([[False], made.counts, [made.counts[-1:].any()]]) if self.answers_alone else None
        return framed(made.ids, self.tokenizer), counts

    def _documents(self, number: int) -> list[Made]:
        rng = self._rng(number)
        lengths = self._lengths(rng)
        make = lambda tokens: self.task.document(rng, self.tokenizer, tokens, self.documents)
        return [make(length - 1) for length in lengths]  # 1: the start token

    def _lengths(self, rng: np.random.Generator) -> list[int]:
        """The inputs of each document of a row: its tokens and the start token."""
        fewest, most = self.task.lengths(self.tokenizer)
        fewest, most = fewest + 1, self.length if most is None else most + 1
        lengths, room = [], self.length
        while room >= fewest:
            length = log_uniform(rng, fewest, min(room, most) + 1)
            if room - length < fewest:  # too little for another one
                length = min(room, most)
            lengths.append(length)
            room -= length
        return lengths

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([*self.seed, int(number)]))
