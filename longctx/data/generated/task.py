"""The interface of a task of generated training data. Free of jax."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.writing import Writer, Written
from longctx.data.tokenizers import Tokenizer
from longctx.ragged import within

ADDED = 8  # tokens beyond one a byte that a tokenizer may add, such as one for a space before the text
MARGINS = 0.99, 0.98, 0.97, 0.95, 0.92, 0.88  # of the size that would be right if bytes per token stayed the same


class Made(NamedTuple):
    """A document as text and as tokens, without start and end token.

    ids int32 [n], spans int64 [n, 2]: token i stands for the bytes from spans[i, 0] to before spans[i, 1]; they may
    end before the text does.
    """

    written: Written
    ids: np.ndarray
    spans: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Whether the first byte of each token belongs to an answer: bool [n]."""
        return within(self.written.answers, len(self.written.text) + 1)[self.spans[:, 0]]

    def cut(self, tokens: int) -> "Made":
        """The document with at most so many tokens, the first ones."""
        return self._replace(ids=self.ids[:tokens], spans=self.spans[:tokens])


def encoded(written: Written, tokenizer: Tokenizer) -> Made:
    """A text that was written, as tokens."""
    return Made(written, *tokenizer.encode_with_spans(written.text))


@dataclasses.dataclass(frozen=True)
class Generated:
    """A task whose documents are made and not read. To add one: a file in longctx/data/generated with a subclass that
    has `smallest`, `write` and `solve`, and a line in GENERATED of generated/api.py.

    share: of the training tokens, above 0 and below 1, that are documents of the task. A subclass may have more
    numbers; they are written in data.generated after the share. smallest: the fewest bytes that `write` can do with.
    """

    share: float
    smallest: ClassVar[int] = 1

    def write(self, rng: np.random.Generator, size: int, documents: Sequence[Document]) -> Written:
        """One document, a function of the arguments alone: at most `size` bytes, and nearly as many.

        size: at least `smallest`. documents: the text that the run trains on, for tasks that take filler from it.
        """
        raise NotImplementedError

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """The answer that follows on the text of a document before it: the definition of a right answer.

        documents: as in `write`; only tasks about the run's own text read them.
        """
        raise NotImplementedError

    def lengths(self, tokenizer: Tokenizer) -> tuple[int, int | None]:
        """(fewest, most) tokens of a document without its start and end token; most: None for as many as a row has.

        A token is at least a byte, so that a text of as many bytes as there is room for tokens always fits.
        """
        return self.smallest + ADDED, None

    def shortest(self, tokenizer: Tokenizer) -> int:
        """The fewest tokens of a row in which the task makes sense: stages of shorter rows are refused."""
        return self.lengths(tokenizer)[0] + 1

    def document(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, documents: Sequence[Document]
    ) -> Made:
        """One document of at most `tokens` tokens, and nearly as many: a function of the arguments alone.

        It is written for as many bytes as tokens, and then again for the bytes that so many tokens turned out to be.

        tokens: in the range of `lengths`. documents: the text that the run trains on.
        """
        seed, size = int(rng.integers(1 << 62)), max(self.smallest, tokens - ADDED)
        best = None
        for margin in MARGINS:
            made = encoded(self.write(np.random.default_rng(seed), size, documents), tokenizer)
            if len(made.ids) <= tokens and (best is None or len(made.ids) > len(best.ids)):
                best = made
            if best and tokens - len(best.ids) <= ADDED + tokens // 20:
                break
            size = max(self.smallest, int(size * tokens / len(made.ids) * margin))
        return (best or made).cut(tokens)


class Series(Generated):
    """A task whose document is one problem after another, as long as there is room for one."""

    def problem(self, rng: np.random.Generator, writer: Writer, documents: Sequence[Document]) -> None:
        """Adds a problem of at most writer.room bytes, which are at least `smallest`, and of at least a byte."""
        raise NotImplementedError

    def write(self, rng: np.random.Generator, size: int, documents: Sequence[Document]) -> Written:
        """See Generated.write."""
        writer, seed, number = Writer(size), int(rng.integers(1 << 62)), 0
        while writer.room >= self.smallest:
            # each has its own generator: a little more room changes their sizes a little, and nothing else
            self.problem(np.random.default_rng([seed, number]), writer, documents)
            number += 1
        return writer.written()


def log_uniform(rng: np.random.Generator, low: float, high: float) -> int:
    """An integer of at least `low` and below `high`, as often in one octave as in another."""
    return int(low * (high / low) ** rng.random())
