"""Practice in copying: a few random digits, repeated.

After its first period everything can be predicted from the context alone, and nothing from the digits' frequencies: a
small model learns from it to look back (induction, Olsson et al. 2022) long before plain text teaches it to.
"""

from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Generated, Made, encoded, log_uniform
from longctx.data.generated.writing import Written
from longctx.data.tokenizers import Tokenizer

SHORTEST, LONGEST = 24, 512  # tokens of a document
PERIODS = 5, 30  # digits: the passkey's and more


class Copying(Generated):
    """A few random digits, repeated; the number of digits is log-uniform."""

    smallest = SHORTEST

    def lengths(self, tokenizer: Tokenizer) -> tuple[int, int | None]:
        """(fewest, most) tokens of a document."""
        return SHORTEST, LONGEST

    def document(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, documents: Sequence[Document]
    ) -> Made:
        """See Generated.document; `documents` are not read."""
        return encoded(_repeated(rng, tokens, 3 * tokens), tokenizer).cut(tokens)  # at most three digits are a token

    def write(self, rng: np.random.Generator, size: int, documents: Sequence[Document]) -> Written:
        """See Generated.write; `documents` are not read."""
        return _repeated(rng, size, size)

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the shortest period once more, or the digits of it that are missing."""
        period = next(p for p in range(1, len(before)) if before.startswith(before[p:]))
        return before[:period]


def _repeated(rng: np.random.Generator, tokens: int, size: int) -> Written:
    """A number of at most half as many digits as tokens, repeated; each repetition after the second is an answer.

    Only then does the text alone say how long it is.
    """
    piece = "".join(map(str, rng.integers(0, 10, log_uniform(rng, PERIODS[0], min(PERIODS[1], tokens // 2)))))
    starts = range(2 * len(piece), size - len(piece) + 1, len(piece))
    return Written((piece * tokens)[:size].encode(), tuple((start, start + len(piece)) for start in starts))
