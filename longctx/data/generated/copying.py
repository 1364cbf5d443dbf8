"""Practice in copying: a few random digits, repeated.

After its first period everything can be predicted from the context alone, and nothing from the digits' frequencies: a
small model learns from it to look back (induction, Olsson et al. 2022) long before plain text teaches it to.
"""

from collections.abc import Sequence

import numpy as np

from longctx.data.generated.passkey import log_uniform
from longctx.data.generated.task import Generated
from longctx.data.sources import Document
from longctx.data.tokenizers import Tokenizer

SHORTEST, LONGEST = 24, 512  # bytes of a document
PERIODS = 5, 30  # bytes: the passkey's digits and more


class Copying(Generated):
    """A few random digits, repeated; lengths of documents and periods are log-uniform."""

    def shortest(self, tokenizer: Tokenizer) -> int:
        """The tokens of the shortest document: at most one for each byte."""
        return SHORTEST

    def training_documents(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, longest: int, documents: Sequence[Document]
    ) -> list[np.ndarray]:
        """See Generated.training_documents; `documents` are not read."""
        made, total = [], 0
        while total < tokens:
            size = log_uniform(rng, SHORTEST, LONGEST)
            piece = "".join(map(str, rng.integers(0, 10, log_uniform(rng, PERIODS[0], min(PERIODS[1], size // 2)))))
            made.append(tokenizer.encode((piece * size)[:size].encode())[: longest - 1])  # 1: the start token
            total += len(made[-1]) + 2  # its start and its end
        return made
