"""Layouts that take no planning."""

import numpy as np
from jaxtyping import Integer

Reaches = tuple[tuple[int | None, int], ...]


class Layout:
    """A rule that gives every token of a row to a shard. The length of a row must divide by shards * `pieces`."""

    pieces = 1
    takes_width = False  # whether a layout's name may be followed by a width in tokens, such as "striped(256)"
    by_row = False  # whether it depends on the documents of a row

    def owner(self, segments: Integer[np.ndarray, "B T"], shards: int, reaches: Reaches) -> Integer[np.ndarray, "_ T"]:
        """The shard of each token, int [B, T], or [1, T] where all rows are alike; each shard has equally many tokens.

        segments: int [B, T], one run per document, as data.rows makes them.
        reaches: for each kind of layer (how many of the latest keys a query sees, None for all; how many layers are of
          that kind): what attention costs, where that matters.
        """
        raise NotImplementedError


class Contiguous(Layout):
    """Shard c holds tokens [c*n, (c+1)*n), n = T / C."""

    def owner(self, segments, shards, reaches):
        length = segments.shape[1]
        return np.arange(length)[None] // (length // shards)


class Zigzag(Layout):
    """The row in 2C pieces; shard c holds pieces c and 2C-1-c."""

    pieces = 2

    def owner(self, segments, shards, reaches):
        length = segments.shape[1]
        return _fold(np.arange(length)[None] // (length // (2 * shards)), shards)


class Striped(Layout):
    """Stripes of `width` tokens, dealt out in turn: shard c holds stripes c, c + C, c + 2C, ... (Striped Attention)."""

    takes_width = True

    def __init__(self, width: int = 1):
        self.pieces = self.width = width

    def owner(self, segments, shards, reaches):
        return np.arange(segments.shape[1])[None] // self.width % shards


class PerDocument(Layout):
    """Every document of a row (and its padding) in 2C pieces of k * width tokens; shard c holds pieces c and 2C-1-c.

    The first n mod 2C*width tokens of a document of n tokens are left over; those of all documents together are dealt
    out in stripes of `width`. So rows need no padding between documents, and shards still hold equally many tokens.
    Being first, they attend to little: of a document the busiest shard has at most (C-1) * width^2 pairs of tokens
    more than the mean. Zigzag, where a row is one document; Striped, where all are short.
    """

    takes_width = by_row = True

    def __init__(self, width: int = 1):
        self.pieces = self.width = width

    def owner(self, segments, shards, reaches):
        starts = np.diff(segments, axis=1, prepend=-1).reshape(-1) != 0
        document = np.cumsum(starts) - 1
        length = np.bincount(document)
        piece = length // (2 * shards * self.width) * self.width
        left_over = length - 2 * shards * piece
        place = np.arange(segments.size) - np.flatnonzero(starts)[document] - left_over[document]
        dealt = place < 0
        stripe = (np.cumsum(dealt) - 1) // self.width  # in every row of some multiple of C stripes
        zigzag = _fold(place // np.maximum(piece, 1)[document], shards)
        return np.where(dealt, stripe % shards, zigzag).reshape(segments.shape)


def _fold(piece, shards):
    """Pieces 0 .. 2C-1 to shards 0 .. C-1 .. 0."""
    return np.minimum(piece, 2 * shards - 1 - piece)
