"""Which token sits on which context shard. Every shard holds equally many tokens of a row, in the order of the row.

Masks and RoPE read positions, never indices, so a layout changes no result: only who computes what. Under a causal mask
a contiguous cut leaves the last shard with 2 - 1/C times the mean work. Zigzag gives every shard one early and one late
piece of the row, which is even for one document but not for packed ones: `per_document` does the same with each of
them. Striped deals the row out, which is nearly even for both.

Even work is not all: kernels compute in blocks, and can skip none that holds tokens from far apart. So stripes and
pieces should be about as wide as a kernel's blocks, as in "per_document(256)"; where documents are shorter than C such
blocks, width 1 has every shard compute several times as many of them.
"""
import re

import numpy as np

from longctx.errors import UserError, unknown_name


class Layout:
    """The shard of every token of a row. A row's length must divide by shards * `pieces`."""
    pieces = 1
    by_row = False                      # whether it depends on the documents of a row

    def owner(self, segments: np.ndarray, shards: int) -> np.ndarray:
        """int [B, T], or [1, T] where it is the same in every row: the shard of each token, all equally often.

        segments: int [B, T], one run per document, as data.rows makes them.
        """
        raise NotImplementedError


class Contiguous(Layout):
    """Shard c holds tokens [c*n, (c+1)*n), n = T / C."""

    def owner(self, segments, shards):
        length = segments.shape[1]
        return np.arange(length)[None] // (length // shards)


class Zigzag(Layout):
    """The row in 2C pieces; shard c holds pieces c and 2C-1-c."""
    pieces = 2

    def owner(self, segments, shards):
        length = segments.shape[1]
        return _fold(np.arange(length)[None] // (length // (2 * shards)), shards)


class Striped(Layout):
    """Stripes of `width` tokens, dealt out in turn: shard c holds stripes c, c + C, c + 2C, ... (Striped Attention)."""

    def __init__(self, width: int = 1):
        self.pieces = self.width = width

    def owner(self, segments, shards):
        return np.arange(segments.shape[1])[None] // self.width % shards


class PerDocument(Layout):
    """Every document of a row (and its padding) in 2C pieces of k * width tokens; shard c holds pieces c and 2C-1-c.

    The first n mod 2C*width tokens of a document of n tokens are left over; those of all documents together are dealt
    out in stripes of `width`. So rows need no padding between documents, and shards still hold equally many tokens.
    Being first, they attend to little: of a document the busiest shard has at most (C-1) * width^2 pairs of tokens
    more than the mean. Zigzag, where a row is one document; Striped, where all are short.
    """
    by_row = True

    def __init__(self, width: int = 1):
        self.pieces = self.width = width

    def owner(self, segments, shards):
        starts = np.diff(segments, axis=1, prepend=-1).reshape(-1) != 0
        document = np.cumsum(starts) - 1
        length = np.bincount(document)
        piece = length // (2 * shards * self.width) * self.width
        left_over = length - 2 * shards * piece
        place = np.arange(segments.size) - np.flatnonzero(starts)[document] - left_over[document]
        dealt = place < 0
        stripe = (np.cumsum(dealt) - 1) // self.width       # in every row of some multiple of C stripes
        zigzag = _fold(place // np.maximum(piece, 1)[document], shards)
        return np.where(dealt, stripe % shards, zigzag).reshape(segments.shape)


def _fold(piece, shards):
    """Pieces 0 .. 2C-1 to shards 0 .. C-1 .. 0."""
    return np.minimum(piece, 2 * shards - 1 - piece)


LAYOUTS = {"contiguous": Contiguous(), "zigzag": Zigzag(), "striped": Striped(), "per_document": PerDocument()}
WITH_WIDTH = {"striped": Striped, "per_document": PerDocument}


def parse(text: str) -> Layout:
    """The layout that text such as "zigzag" or "striped(256)" names. Raises UserError for anything else."""
    match = re.fullmatch(r"(\w+)\(([1-9]\d*)\)", text)
    if match and match[1] in WITH_WIDTH:
        return WITH_WIDTH[match[1]](int(match[2]))
    if text not in LAYOUTS:
        raise unknown_name("attention.layout", text, [*LAYOUTS, *(f"{name}(256)" for name in WITH_WIDTH)])
    return LAYOUTS[text]


def unit(name: str, shards: int) -> int:
    """What the length of a row must divide by."""
    pieces = parse(name).pieces
    return shards * pieces if shards > 1 else 1


def check(name: str, length: int, shards: int) -> None:
    """Raises UserError for an unknown layout, or a length that does not divide; names the nearest lengths that do."""
    need = unit(name, shards)
    if length % need:
        below, above = length // need * need, -(-length // need) * need
        near = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"seq_len={length} must divide by {need} for attention.layout={name!r} "
                        f"over {shards} context shards. Nearest: {near}.")


def permutation(name: str, segments: np.ndarray, shards: int) -> np.ndarray:
    """int [B, T], or [1, T] for all rows: slot i of laid-out row b holds its token permutation[b, i].

    segments: int [B, T], the documents of each row in runs. Raises UserError as `check`.
    """
    check(name, segments.shape[1], shards)
    if shards == 1:
        return np.arange(segments.shape[1])[None]
    owner = parse(name).owner(segments, shards)
    return np.argsort(owner.astype(np.int16), axis=1, kind="stable")        # a radix sort: linear in T


def inverse(order: np.ndarray) -> np.ndarray:
    """The permutation that undoes `order`: permute(permute(x, order), inverse(order)) is x."""
    return np.argsort(order, axis=1)


def permute(x, order: np.ndarray):
    """An array [B, T, ...] with its rows in the given order."""
    return x[np.arange(len(x))[:, None], order]


def lay_out(batch: dict, name: str, shards: int) -> dict:
    """A batch of arrays [B, T], `segments` among them, in the order of a layout."""
    order = permutation(name, batch["segments"], shards)
    return {key: permute(x, order) for key, x in batch.items()}


def imbalance(positions: np.ndarray, segments: np.ndarray, shards: int) -> float:
    """Attention work of the busiest context shard / the mean one (1 is even), for laid-out rows [B, T] under a causal
    mask. Work is pairs of tokens that see each other; positions count from 0 in each document."""
    pairs = np.where(segments > 0, positions.astype(np.int64) + 1, 0).reshape(len(positions), shards, -1).sum((0, 2))
    return float(pairs.max() / pairs.mean())
