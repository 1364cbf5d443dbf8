"""Practice in copying: a short random piece, repeated.

Everything after its first period can be predicted from the context alone, so that a small model learns to look back
(induction, Olsson et al. 2022) long before plain text teaches it to.
"""
from collections.abc import Sequence

import numpy as np

from longctx.data.sources import Document
from longctx.data.tokenizers import Tokenizer

SHORTEST, LONGEST = 48, 1024        # tokens of a document
SHORTEST_PERIOD = 6                 # tokens


def training_documents(rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, longest: int,
                       documents: Sequence[Document]) -> list[np.ndarray]:
    """Documents as token ids, at least `tokens` tokens in total, each fitting a row of `longest` tokens.

    The piece is in turn a string of digits, one of letters, and an excerpt of `documents`; its length is log-uniform
    between SHORTEST_PERIOD and half the document.
    """
    made, total = [], 0
    while total < tokens:
        size = int(rng.integers(min(SHORTEST, longest - 2), min(LONGEST, longest - 2) + 1))
        period = int(np.exp(rng.uniform(np.log(SHORTEST_PERIOD), np.log(max(size // 2, SHORTEST_PERIOD + 1)))))
        piece = tokenizer.encode(_text(rng, len(made) % 3, period, documents).encode())[:period]
        made.append(np.resize(piece, size).astype(np.int32))
        total += size + 2       # its start and its end
    return made


def _text(rng: np.random.Generator, kind: int, size: int, documents: Sequence[Document]) -> str:
    """At least `size` bytes: digits (kind 0), letters (1), or text out of a random place (2)."""
    if kind < 2:
        return "".join(rng.choice(list(("0123456789", "abcdefghijklmnopqrstuvwxyz")[kind]), size))
    text = documents[int(rng.integers(len(documents)))].text
    start = int(rng.integers(max(1, len(text) - 4 * size)))
    return text[start:start + 4 * size].decode("utf-8", "ignore").ljust(size, ".")
