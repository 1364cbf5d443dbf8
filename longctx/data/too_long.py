"""What becomes of documents that are longer than a row, by name: data.too_long. Free of jax.

To add one: a function (table, capacity) -> (table, Dropped), and a line in TOO_LONG. What fits stays as it is, and the
documents stay in order. The ways that shorten documents keep the first token of each, and all that counts in the loss.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import cast

import numpy as np

from longctx.data.rows import Dropped, TokenTable
from longctx.data.views import Chained
from longctx.errors import unknown_name
from longctx.ragged import ragged_arange

Shorten = Callable[[np.ndarray, int], np.ndarray]  # which tokens of a document must stay, how many go -> which stay


def cut(table: TokenTable, capacity: int) -> tuple[TokenTable, Dropped]:
    """The table itself: data.packing cuts long documents into pieces."""
    return table, Dropped()


def skip(table: TokenTable, capacity: int) -> tuple[TokenTable, Dropped]:
    """The documents that fit into a row of `capacity` tokens."""
    fits = table.inputs <= capacity
    if fits.all():
        return table, Dropped()
    return table.chosen(np.flatnonzero(fits)), Dropped(int((~fits).sum()), int(table.inputs[~fits].sum()))


def middle(table: TokenTable, capacity: int) -> tuple[TokenTable, Dropped]:
    """Long documents without the middle of their longest run of tokens that do not count, and of the next longest where
    that is not enough. Those whose counted tokens alone are too many are left out."""
    return _shortened(table, capacity, _without_middle)


def start(table: TokenTable, capacity: int) -> tuple[TokenTable, Dropped]:
    """Long documents without the first of their tokens that do not count. Those whose counted tokens alone are too many
    are left out."""
    return _shortened(table, capacity, _without_start)


TOO_LONG = {"cut": cut, "middle": middle, "start": start, "skip": skip}


def check(name: str) -> None:
    """Raises UserError for a name that is not known."""
    if name not in TOO_LONG:
        raise unknown_name("data.too_long", name, TOO_LONG)


def _shortened(table: TokenTable, capacity: int, shorten: Shorten) -> tuple[TokenTable, Dropped]:
    """The table with its long documents shortened, and without those that cannot be."""
    long = np.flatnonzero(table.inputs > capacity)
    if not len(long):
        return table, Dropped()
    stays, places, kept = np.ones(len(table.inputs), bool), [], []
    for document in long:
        tokens = slice(table.starts[document], table.starts[document] + table.inputs[document] + 1)
        ids = table.ids[tokens]
        counts = np.ones(len(ids), bool) if table.counts is None else table.counts[tokens]
        needed = np.concatenate([[True], counts[1:]])  # the others are predicted behind the first one
        stays[document] = needed.sum() <= capacity + 1
        if stays[document]:
            keep = shorten(needed, len(ids) - capacity - 1)
            places.append(document)
            kept.append((ids[keep], counts[keep]))
    chosen = table.chosen(np.flatnonzero(stays))
    if kept:
        chosen = _replaced(chosen, (np.cumsum(stays) - 1)[places], kept)
    return chosen, Dropped(len(long) - len(kept), int(table.inputs.sum() - chosen.inputs.sum()))


def _without_middle(needed: np.ndarray, excess: int) -> np.ndarray:
    edges = np.flatnonzero(np.diff(needed, prepend=True, append=True))
    first, length = edges[::2], edges[1::2] - edges[::2]  # of each run that need not stay
    order = np.argsort(-length, kind="stable")
    first, length = first[order], length[order]
    taken = np.clip(excess - (np.cumsum(length) - length), 0, length)
    keep = np.ones(len(needed), bool)
    keep[np.repeat(first + (length - taken) // 2, taken) + ragged_arange(taken)] = False
    return keep


def _without_start(needed: np.ndarray, excess: int) -> np.ndarray:
    keep = np.ones(len(needed), bool)
    keep[np.flatnonzero(~needed)[:excess]] = False
    return keep


def _replaced(table: TokenTable, places: np.ndarray, kept: list[tuple[np.ndarray, np.ndarray]]) -> TokenTable:
    """The table with other (tokens, which of them count) in some places. They lie behind all others in the arrays, of
    which nothing is copied: those of a store stay on the disk."""
    ids, counts = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    sizes = np.array([len(one) for one, _ in kept])
    starts, inputs = table.starts.copy(), table.inputs.copy()
    starts[places], inputs[places] = len(table.ids) + np.cumsum(sizes) - sizes, sizes - 1
    return dataclasses.replace(
        table,
        ids=_behind(table.ids, ids),
        starts=starts,
        inputs=inputs,
        counts=None if table.counts is None else _behind(table.counts, counts),
        checksum=zlib.crc32(ids.tobytes() + np.packbits(counts).tobytes(), table.checksum or 0),
    )


def _behind(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two arrays as one, to who only takes slices and places of it, as readers of a TokenTable do."""
    return cast(np.ndarray, Chained(first, second))
