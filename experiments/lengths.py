"""Rows of documents whose lengths are drawn as those of web pages, of code, and of mixtures for long contexts."""
import numpy as np

from longctx.data.packing import ragged_arange

LONG = 65536
# the share of documents that makes 0.6 of the tokens those of long ones, beside web pages of 735 tokens
LONG_SHARE = 0.6 / 0.4 * 2 * 735 / LONG
KINDS = {
    "web": lambda rng: rng.lognormal(6.6, 1.2),
    "code": lambda rng: rng.lognormal(7.5, 1.8),
    "prolong": lambda rng: LONG if rng.random() < LONG_SHARE else rng.lognormal(6.6, 1.2),
}


def row(lengths) -> dict[str, np.ndarray]:
    """A row of documents of these lengths, [1, T] each."""
    segments = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
    return {"positions": ragged_arange(np.asarray(lengths)).astype(np.int32)[None], "segments": segments[None]}


def documents(kind: str, tokens: int, seed: int) -> list[int]:
    """Lengths that fill a row: 16 tokens at least, the last one cut."""
    rng, lengths, left = np.random.default_rng(seed), [], tokens
    while left:
        lengths.append(int(min(max(KINDS[kind](rng), 16), left)))
        left -= lengths[-1]
    return lengths
