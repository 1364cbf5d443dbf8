"""Practice in copying: a few random digits, repeated.

After its first period everything can be predicted from the context alone, and nothing from the digits' frequencies: a
small model learns from it to look back (induction, Olsson et al. 2022) long before plain text teaches it to.
"""

from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Generated, log_uniform
from longctx.data.tokenizers import Tokenizer

SHORTEST, LONGEST = 24, 512  # tokens of a document
PERIODS = 5, 30  # digits: the passkey's and more


class Copying(Generated):
    """A few random digits, repeated; the number of digits is log-uniform."""

    def lengths(self, tokenizer: Tokenizer) -> tuple[int, int | None]:
        """(fewest, most) tokens of a document."""
        return SHORTEST, LONGEST

    def document(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, documents: Sequence[Document]
    ) -> np.ndarray:
        """See Generated.document; `documents` are not read."""
        piece = "".join(map(str, rng.integers(0, 10, log_uniform(rng, PERIODS[0], min(PERIODS[1], tokens // 2)))))
        return tokenizer.encode((piece * tokens)[: 3 * tokens].encode())[:tokens]  # at most three digits are a token
