"""The interface of a task of generated training data. Free of jax."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Generated:
    """A task whose documents are made and not read. To add one: a file in longctx/data/generated with a subclass, and a
    line in GENERATED of generated/api.py.

    share: of the training tokens, above 0 and below 1, that are documents of the task. A subclass may have more
    numbers; they are written in data.generated after the share.
    """

    share: float

    def lengths(self, tokenizer: Tokenizer) -> tuple[int, int | None]:
        """(fewest, most) tokens of a document without its start and end token; most: None for as many as a row has."""
        raise NotImplementedError

    def shortest(self, tokenizer: Tokenizer) -> int:
        """The fewest tokens of a row in which the task makes sense: stages of shorter rows are refused."""
        return self.lengths(tokenizer)[0] + 1

    def document(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, documents: Sequence[Document]
    ) -> np.ndarray:
        """One document as token ids, int32 [n], without start and end token; a function of the arguments alone.

        tokens: about the document's length, and the most that is used of it; in the range of `lengths`.
        documents: the text that the run trains on, for tasks that take filler from it.
        """
        raise NotImplementedError


def log_uniform(rng: np.random.Generator, low: float, high: float) -> int:
    """An integer of at least `low` and below `high`, as often in one octave as in another."""
    return int(low * (high / low) ** rng.random())
