"""The interface of a task of generated training data. Free of jax."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from longctx.data.sources import Document
from longctx.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Generated:
    """A task whose documents are made and not read. To add one: a file in longctx/data/generated with a subclass, and a
    line in GENERATED of generated/api.py.

    share: of the training tokens, above 0 and below 1, that are documents of the task. A subclass may have more
    numbers; they are written in data.generated after the share.
    """

    share: float

    def shortest(self, tokenizer: Tokenizer) -> int:
        """The fewest tokens of a row in which the task makes sense: stages of shorter rows are refused."""
        raise NotImplementedError

    def training_documents(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, longest: int, documents: Sequence[Document]
    ) -> list[np.ndarray]:
        """Documents as token ids, int32 [n] each, without start and end token; a function of the arguments alone.

        tokens: the least that the documents have in total, start and end tokens counted too.
        longest: inputs of a row, in tokens; each document and its start token fit it.
        documents: the text that the run trains on, for tasks that take filler from it.
        """
        raise NotImplementedError
