"""Meters for rows as a layout puts them: how evenly attention is spread over context shards, and what is moved.

All take positions and segments int [B, T] in the order of the layout, documents from their position 0 on, and C shards
of n = T / C slots each. A query sees the keys of its document up to its own, the latest `reach` of them (None: all).
Work is pairs of tokens.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from longctx.layouts import CAUSAL, Reaches
from pallas_kernels import masks

_NUMBERS = 1 << 22  # in one array
_FAR = 2.0**31  # beyond any position


@dataclasses.dataclass(frozen=True)
class Balance:
    """The costs of a layout. Of several kinds of layers, each waits for its own busiest shard.

    Attributes:
      work: I, the work of the busiest shard / the mean.
      lockstep: J, the sum over the hops of a ring of the work of the shard that is busiest in that hop / the mean.
      tokens: tokens of the shard that has most / the mean. padding: share of the slots.
      received: keys that a shard needs of others / keys that a ring brings, (C-1) * n; the mean over the shards, in
        whole blocks. received_most: the same ratio for the shard that receives most.
      tiles: pairs of blocks that the busiest shard computes / the mean. waste: pairs of tokens in all of them / work.
      pairs: of tokens, that a shard computes in all layers; the mean.
    """

    work: float
    lockstep: float
    tokens: float
    padding: float
    received: float
    received_most: float
    tiles: float
    waste: float
    pairs: float


def measure(positions, segments, shards: int, reaches: Reaches = CAUSAL, block: int = 256) -> Balance:
    """The balance of all layers; reaches: see layouts.Layout.owner. block: slots in a block of a kernel; divides n."""
    layers = np.array([number for _, number in reaches])
    over = lambda of_kinds: layers @ np.array(of_kinds)
    works = [work(positions, segments, shards, reach) for reach, _ in reaches]
    computed, needed = zip(*(tiles(positions, segments, shards, reach, block) for reach, _ in reaches), strict=True)
    away = [(x.sum(axis=1) - x.diagonal()) / layers.sum() for x in needed]
    real = (segments > 0).reshape(len(segments), shards, -1).sum((0, 2))
    ring = (segments.size - segments.size // shards) / block or 1
    work_of_all, tiles_of_all = over([x.sum() for x in works]), over([x.sum() for x in computed])
    return Balance(
        work=over([x.sum(axis=1).max() for x in works]) * shards / work_of_all,
        lockstep=over([by_hop(x).max(axis=1).sum() for x in works]) * shards / work_of_all,
        tokens=most(real),
        padding=1 - real.sum() / segments.size,
        received=over([x.mean() for x in away]) / ring,
        received_most=over([x.max() for x in away]) / ring,
        tiles=over([x.sum(axis=1).max() for x in computed]) * shards / tiles_of_all,
        waste=tiles_of_all * block**2 / work_of_all,
        pairs=work_of_all / shards,
    )


def most(by_shard: np.ndarray) -> float:
    """The largest by the mean: 1 is even."""
    return float(by_shard.max() / by_shard.mean())


def by_hop(by_pair: np.ndarray) -> np.ndarray:
    """[t, i] of [i, j]: what shard i has to do with the keys of j; at hop t of a ring, with those of i - t."""
    shard = np.arange(len(by_pair))
    return by_pair[shard, (shard - shard[:, None]) % len(by_pair)]


# ---- pairs of tokens


class Pieces(NamedTuple):
    """Runs of neighbouring tokens of a document on one shard, in the order of their documents: int64 [P] each.

    first: position of the first token. size: tokens. shard. document: where its pieces start in this list.
    """

    first: np.ndarray
    size: np.ndarray
    shard: np.ndarray
    document: np.ndarray


def work(positions: np.ndarray, segments: np.ndarray, shards: int, reach: int | None) -> np.ndarray:
    """float64 [C, C]: pairs of a query of shard i and a key of shard j."""
    total, pieces = np.zeros((shards, shards)), _pieces(positions, segments, shards)
    starts = np.append(np.unique(pieces.document), len(pieces.first))
    begin = 0
    while begin < len(pieces.first):  # whole documents, as many as fit
        end = starts[
            max(
                np.searchsorted(starts, begin + _NUMBERS // shards, side="right") - 1,
                np.searchsorted(starts, begin, side="right"),
            )
        ]
        group = Pieces(*(x[begin:end] for x in pieces))
        np.add.at(total, group.shard, _seen(group._replace(document=group.document - begin), shards, reach))
        begin = end
    return total


def _pieces(positions, segments, shards) -> Pieces:
    """The pieces of laid-out rows; padding is in none."""
    (B, T), n = segments.shape, segments.shape[1] // shards
    position, segment, slots = positions.reshape(-1).astype(np.int64), segments.reshape(-1), np.arange(B * T)
    goes_on = (np.diff(position, prepend=-2) == 1) & (np.diff(segment, prepend=-1) == 0) & (slots % n > 0)
    slot = np.flatnonzero(~goes_on)
    size = np.diff(slot, append=B * T)
    slot, size = slot[segment[slot] > 0], size[segment[slot] > 0]
    order = np.lexsort((position[slot], segment[slot], slot // T))
    slot, size = slot[order], size[order]
    first = position[slot]
    document = np.maximum.accumulate(np.where(first == 0, np.arange(len(slot)), 0))
    return Pieces(first, size, slot % T // n, document)


def _seen(p: Pieces, shards, reach):
    """float64 [P, C]: the keys of each shard that the queries of each piece see, summed over the queries."""
    own = p.shard[:, None] == np.arange(shards)
    before = _sums(own * p.size[:, None], p.document)  # keys that come before the piece
    # what the queries before the piece see where nothing limits it
    total = _sums(_of_first(p.size, before, own), p.document)

    def until(x):
        """Keys that the first x queries of each piece's document see, summed, where nothing limits them."""
        at = np.searchsorted(p.document + p.first / _FAR, p.document + x / _FAR, side="right") - 1
        return total[at] + _of_first(x - p.first[at], before[at], own[at])

    seen = _of_first(p.size, before, own)
    if reach is not None:  # less the keys that are `reach` or more before their query
        seen -= until(np.maximum(p.first + p.size - reach, 0)) - until(np.maximum(p.first - reach, 0))
    return seen


def _of_first(tokens, before, own):
    """Keys that the first `tokens` queries of a piece see, summed: all keys `before` the piece, and the piece's own."""
    tokens = tokens[:, None].astype(np.float64)
    return tokens * before + own * (tokens * (tokens + 1) / 2)


def _sums(x, document):
    """[P, C]: for each piece the sum of x [P, C] over earlier pieces of its document."""
    sums = np.cumsum(x, axis=0, dtype=np.float64) - x
    return sums - sums[document]


# ---- pairs of blocks


def tiles(positions: np.ndarray, segments: np.ndarray, shards: int, reach: int | None, block: int):
    """(pairs of blocks that a kernel computes, blocks of keys that are needed for it), int64 [C, C] each: of queries of
    shard i and keys of shard j. A kernel knows the least and the largest position and segment of a block."""
    mask = masks.Causal() & masks.Segments() & (masks.Full() if reach is None else masks.Window(reach))
    tokens = masks.TokenInfo(positions.astype(np.int32), segments.astype(np.int32))
    blocks = [np.asarray(x) for x in masks.block_ranges(tokens, block)]  # [B, T / block]
    computed, needed = np.empty((2, shards, shards), np.int64)
    for shard, own_blocks in enumerate(zip(*(np.split(x, shards, axis=1) for x in blocks), strict=True)):
        q, k = masks.Ranges(*(x[:, :, None] for x in own_blocks)), masks.Ranges(*(x[:, None] for x in blocks))
        touched = ~masks.nothing(mask, q, k)
        of_shard = lambda x: x.reshape(len(x), shards, -1).sum((0, 2))
        computed[shard], needed[shard] = of_shard(touched.sum(axis=1)), of_shard(touched.any(axis=1))
    return computed, needed
