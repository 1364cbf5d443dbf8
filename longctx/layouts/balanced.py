"""Even attention work, equally many tokens on every shard, and few keys that anyone has to ask for.

A row is cut into chunks of `width` tokens, as wide as a kernel's blocks, and what is planned is the shard of each.

A document folded in its middle, its first chunk with its last, the second with the last but one, is even all along:
under a causal mask so many tokens of it are so many pairs, L/2 for each of them, wherever it is cut. So a row is two
streams of folded documents, each in the row's order: those with more pairs per token than the row has, and the others.
Shard c ends where x chunks of the first and y of the second are behind it, with x + y = (c+1) * n/width and the work of
both (c+1)/C of the row's: one equation for each end, solved by bisection. It has a solution: what is left of the
row is always as dense as the whole of it. A dense document is then on as many shards as its work asks for, with an
early and a late piece on each (one document alone is `zigzag`). Of a shard's others only the first and the last are
cut, and the rest sends nothing.

Ends fall between chunks. Where that leaves a shard above TOLERANCE, it swaps single chunks, if it can with a near
shard, which mostly has pieces of the same dense document.
"""

import numpy as np

from longctx.layouts.simple import Layout
from longctx.ragged import ragged_arange

TOLERANCE = 0.015  # of the busiest shard's work above the mean
_SWAPS = 4  # at most so many for each shard: a chunk may be more than a shard's share


class Balanced(Layout):
    """Chunks of `width` tokens, dealt so that all shards have equal work; short documents stay whole, long ones spread.

    No shard has more than 1 + TOLERANCE of the mean work, unless a chunk is too much of that. Made for strategies that
    exchange keys by need: a ring waits at each hop for the shard that has most to do in it.
    """

    takes_width = by_row = True

    def __init__(self, width: int = 1):
        self.pieces = self.width = width

    def owner(self, segments, shards, reaches):
        chunks = np.stack([plan(row, shards, self.width, reaches) for row in segments])
        return np.repeat(chunks, self.width, axis=1)


def plan(segments: np.ndarray, shards: int, width: int, reaches) -> np.ndarray:
    """int16 [T / width]: the shard of each chunk of a row with segments [T]; reaches: see Layout.owner.

    All layers have one plan, and each waits for its own busiest shard: of the plans that are even for one kind of
    layers, it is the one by which all of them together wait least.
    """
    document, works = _chunks(segments, width, reaches)
    plans = [_evened(_dealt(document, work, shards), work, shards) for work in works]
    waited = [sum(np.bincount(owner, work, shards).max() for work in works) for owner in plans]
    return plans[np.argmin(waited)].astype(np.int16)


def pairs(tokens: np.ndarray, reach: int | None) -> np.ndarray:
    """Pairs of a query and a key it sees, for the first `tokens` queries of a document; each sees `reach` keys at most
    (None: no limit)."""
    near = tokens if reach is None else np.minimum(tokens, reach)
    return near * (near + 1) / 2 + (tokens - near) * near


def _chunks(segments, width, reaches):
    """(document [chunks] that each chunk starts in, work [kinds][chunks] of each in all layers of a kind)."""
    start = np.flatnonzero(np.append(True, segments[1:] != segments[:-1]))
    edge = np.union1d(start, np.arange(0, len(segments), width))
    document = np.searchsorted(start, edge, side="right") - 1
    first = edge - start[document]
    end = first + np.diff(edge, append=len(segments))
    whole, real = edge % width == 0, segments[edge] > 0
    of_kind = lambda reach, layers: layers * real * (pairs(end, reach) - pairs(first, reach))
    return document[whole], [np.add.reduceat(of_kind(*kind), np.flatnonzero(whole)) for kind in reaches]


def _dealt(document, work, shards):
    """The shard of each chunk: equally many chunks on each, and equal work up to a chunk's."""
    start = np.flatnonzero(np.diff(document, prepend=-1))
    length = np.diff(start, append=len(document))
    dense = np.add.reduceat(work, start) > work.mean() * length
    streams = [_folded(start[which], length[which]) for which in (dense, ~dense)]
    owner = np.empty(len(work), np.int64)
    for stream, ends in zip(streams, _ends(*(work[stream] for stream in streams), shards), strict=True):
        owner[stream] = np.searchsorted(ends, np.arange(len(stream)), side="right")
    return owner


def _folded(start, length):
    """The chunks of documents: of each the first, the last, the second, the last but one, ..."""
    place, last = ragged_arange(length), np.repeat(length, length) - 1
    return np.repeat(start, length) + np.where(place % 2, last - place // 2, place // 2)


def _ends(dense, others, shards):
    """int [C-1] each: the chunks of either stream, given by work, that lie on the first c shards, c = 1 .. C-1."""
    of_dense, of_others = (np.concatenate([[0], np.cumsum(stream)]) for stream in (dense, others))
    behind = np.arange(1, shards) * ((len(dense) + len(others)) // shards)
    wanted = np.arange(1, shards) * ((of_dense[-1] + of_others[-1]) / shards)
    missing = lambda x: wanted - of_dense[x] - of_others[behind - x]
    least = low = np.maximum(behind - len(others), 0)
    high = np.minimum(behind, len(dense))
    while (low < high).any():
        middle = (low + high) // 2
        enough = missing(middle) <= 0
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    below = np.maximum(high - 1, least)
    x = np.where(np.abs(missing(below)) < np.abs(missing(high)), below, high)
    x = np.maximum.accumulate(x)  # rounding must not take chunks back from a shard,
    x = np.minimum.accumulate(x - behind) + behind  # of neither stream
    return x, behind - x


def _evened(owner, work, shards):
    """The shard of each chunk after swaps that bring every shard within TOLERANCE, as far as there are such."""
    held = np.argsort(owner, kind="stable").reshape(shards, -1)
    held = np.take_along_axis(held, np.argsort(work[held], axis=1, kind="stable"), axis=1)  # by work, for `_swap`
    works = work[held]
    load = works.sum(axis=1)
    limit = (1 + TOLERANCE) * load.mean()
    for _ in range(_SWAPS * shards):
        busy = load.argmax()
        if load[busy] <= limit:
            break
        swap = _partner(works, load, busy, limit)
        if swap is None:
            break
        other, i, j, taken = swap
        load[busy], load[other] = load[busy] - taken, load[other] + taken
        held[busy, i], held[other, j] = held[other, j], held[busy, i]
        for shard in (busy, other):
            held[shard] = held[shard, np.argsort(work[held[shard]], kind="stable")]
            works[shard] = work[held[shard]]
    owner[held] = np.arange(shards)[:, None]
    return owner


def _partner(work, load, busy, limit):
    """(another shard, place in `busy`, place there, work taken over): the nearest shard by a swap with which both come
    within the limit; else the lightest that can take anything and stay below what `busy` has now. None if none can."""
    excess, room = load[busy] - limit, limit - load
    able = np.flatnonzero(room >= excess)
    for other in able[np.argsort(np.abs(able - busy), kind="stable")]:
        i, j, taken = _swap(work[busy], work[other], room[other])
        if taken >= excess:
            return other, i, j, taken
    room = np.maximum(room, (load[busy] - load) / 2)
    for other in np.argsort(load, kind="stable"):
        i, j, taken = _swap(work[busy], work[other], room[other])
        if taken > 0:
            return other, i, j, taken
    return None


def _swap(mine, theirs, room):
    """(i, j, mine[i] - theirs[j]) of the largest difference that is at most `room`; -inf if there is none.

    mine, theirs: sorted.
    """
    j = np.searchsorted(theirs, mine - room)
    taken = np.where(j < len(theirs), mine - theirs[np.minimum(j, len(theirs) - 1)], -np.inf)
    i = taken.argmax()
    return i, j[i], taken[i]
