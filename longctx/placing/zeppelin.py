"""Zeppelin (arXiv 2509.21841): zones by length for attention, then tokens moved so that linear layers are even."""

import numpy as np

from longctx.placing import bins
from longctx.placing.cost import Cost, pairs
from longctx.placing.placement import PADDING, Draft, Placement, zigzag


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """Short documents on one rank, longer ones over the ranks of a node, the longest over all ranks, as zigzag rings.

    A document is long enough for a zone where computing its attention there hides the keys that travel, or where a
    narrower zone leaves a rank more than its share of all attention. The thresholds are derived here from Cost, since
    the paper's were not at hand. Attention is dealt by pairs; then ranks with more tokens than the mean hand the last
    ones to others, of their node first, for linear layers alone. Its routing of traffic over several network cards is
    left out.
    """
    draft = Draft(ranks)
    by_tokens = lambda steps: bins.least_work(lengths, lengths, steps, ranks * cost.capacity)
    owner, steps = bins.in_fewest(by_tokens, lengths, ranks, cost)
    for step in range(steps):
        documents = np.flatnonzero(owner == step)
        document, first, end, rank = runs = _zoned(documents, lengths[documents], ranks, cost)
        draft.attend(document, first, end, rank, step)
        document, first, end, rank = _remapped(runs, ranks, _node(ranks, cost))
        draft.home(document, first, end, rank, step)
        held = np.bincount(rank, end - first, ranks).astype(np.int64)
        draft.home(PADDING, 0, held.max() - held, np.arange(ranks), step)
    return draft.done(steps, together=ranks > 1)


def _node(ranks, cost):
    """Ranks of a node: the narrowest block with a rate of its own, where nodes divide the ranks."""
    size = min(cost.rates[0][0], ranks)
    return size if ranks % size == 0 else 1


def _zones(lengths, ranks, cost):
    """The ranks of the zone of each document: 1, those of a node, or all."""
    zone, attention = np.ones(len(lengths), np.int64), cost.pair * pairs(lengths)
    even = attention.sum() / ranks
    for degree in (_node(ranks, cost), ranks):
        hidden = attention / degree >= lengths * cost.key_bytes / cost.rate(degree)
        zone = np.where(hidden | (attention / zone > even), degree, zone)
    return zone


def _zoned(documents, lengths, ranks, cost):
    """i64 [4, runs]: document, first, end, rank of attention."""
    zone, node = _zones(lengths, ranks, cost), _node(ranks, cost)
    load, runs = np.zeros(ranks), []
    for at in np.lexsort((documents, -lengths, -zone)):
        degree = int(zone[at])
        blocks = load.reshape(-1, degree if degree in (node, ranks) else 1).max(axis=1)
        first_rank = int(blocks.argmin()) * degree
        load[first_rank : first_rank + degree] += pairs(lengths[at]) / degree
        first, end, member = zigzag(int(lengths[at]), degree)
        runs.append(np.stack(np.broadcast_arrays(documents[at], first, end, first_rank + member)))
    return np.concatenate(runs, axis=1)


def _remapped(runs, ranks, node):
    """Runs as `runs`, in which no rank has more than the mean tokens, rounded up: the rest is on ranks that have less,
    of the same node where these have room."""
    size = runs[2] - runs[1]
    share, room = -(-int(size.sum()) // ranks), np.zeros(ranks, np.int64)
    kept, over = [], []
    room += share
    for document, first, end, rank in runs.T.tolist():
        take = min(end - first, int(room[rank]))
        room[rank] -= take
        kept.append((document, first, first + take, rank))
        over.append((document, first + take, end, rank))
    for document, first, end, rank in over:
        while first < end:
            near = np.arange(ranks) // node == rank // node
            able = near & (room > 0) if (near & (room > 0)).any() else room > 0
            to = int(np.where(able, room, -1).argmax())
            take = min(end - first, int(room[to]))
            kept.append((document, first, first + take, to))
            first, room[to] = first + take, room[to] - take
    return np.array([run for run in kept if run[2] > run[1]], np.int64).T
