"""Rows of documents, and whole corpora, with drawn lengths: like web pages, code, or mixtures for long contexts."""

import time

import numpy as np

from longctx import layouts
from longctx.data.dealing import deal
from longctx.ragged import ragged_arange

LONG = 65536
LONGEST = 1 << 20  # tokens of a document of a corpus
# the share of documents that makes 0.6 of the tokens those of long ones, beside web pages of 735 tokens
LONG_SHARE = 0.6 / 0.4 * 2 * 735 / LONG
HEAP = "heap(512)"


def web(rng: np.random.Generator) -> float:
    """The tokens of a web page."""
    return rng.lognormal(6.6, 1.2)


def code(rng: np.random.Generator) -> float:
    """The tokens of a file of source code."""
    return rng.lognormal(7.5, 1.8)


def prolong(rng: np.random.Generator) -> float:
    """The tokens of a document in a mixture for long contexts: LONG ones among web pages."""
    return LONG if rng.random() < LONG_SHARE else web(rng)


KINDS = {"web": web, "code": code, "prolong": prolong}


def row(lengths) -> dict[str, np.ndarray]:
    """Positions and segments, int32 [1, T] each, of a row of documents of the given lengths."""
    segments = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
    return {"positions": ragged_arange(np.asarray(lengths)).astype(np.int32)[None], "segments": segments[None]}


def documents(kind: str, tokens: int, seed: int) -> list[int]:
    """Lengths of documents that fill a row of `tokens` tokens, each at least 16 but for the last, which is cut off."""
    rng, lengths, left = np.random.default_rng(seed), [], tokens
    while left:
        lengths.append(int(min(max(KINDS[kind](rng), 16), left)))
        left -= lengths[-1]
    return lengths


def laid_out(batch: dict, layout: str, shards: int, reaches=layouts.CAUSAL) -> tuple[dict, float]:
    """(a batch of one row in the order of a layout, milliseconds of one core to compute that order)."""
    start = time.process_time()
    if layout == HEAP:  # as MagiAttention (arXiv 2505.13211) deals chunks
        owner = np.repeat(deal((batch["positions"] + 1.0).reshape(-1, 512).sum(axis=1), shards), 512)[None]
    else:
        owner = layouts.parse(layout).owner(batch["segments"], shards, reaches)
    spent = 1e3 * (time.process_time() - start)
    order = np.argsort(owner.astype(np.int16), axis=1, kind="stable")
    return {name: layouts.permute(x, order) for name, x in batch.items()}, spent


def corpus(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """i64 [count]: tokens of documents of a CORPORA kind, each at least 1 and at most LONGEST."""
    rng = np.random.default_rng(seed)
    return np.clip(CORPORA[kind](rng, count), 1, LONGEST).astype(np.int64)


def lognormal(rng: np.random.Generator, count: int) -> np.ndarray:
    """Lengths whose logarithm is normal: median 1,097, mean 2,253."""
    return rng.lognormal(7.0, 1.2, count)


def heavy(rng: np.random.Generator, count: int) -> np.ndarray:
    """Lengths of web pages, of which one in fifty is long: 4,096 and more, with the tail of a power law."""
    pages = rng.lognormal(6.6, 1.2, count)
    return np.where(rng.random(count) < 0.02, 4096 * (1 + rng.pareto(1.1, count)), pages)


CORPORA = {"log-normal": lognormal, "web, long tail": heavy}
