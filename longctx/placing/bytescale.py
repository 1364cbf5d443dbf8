"""ByteScale's hybrid data parallelism (arXiv 2502.21231): as many ranks for a document as it needs."""

import dataclasses

import numpy as np

from longctx.placing import bins
from longctx.placing.cost import Cost
from longctx.placing.placement import Draft, Placement

HALVINGS = 8  # of the tokens per rank that are tried


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """D(s) = ceil(s / C) neighbouring ranks for a document of s tokens, a zigzag ring; those of one rank are packed.

    A step takes units of like work, a rank has one unit in a step. C is the capacity divided by the power of two with
    which the batch takes least time: offloading, with which the original lowers D, is left out.
    """
    found, ring = [], dataclasses.replace(cost, heads=1)  # a ring splits no heads
    for share in (cost.capacity >> i for i in range(HALVINGS)):
        if share and -(-int(lengths.max()) // share) <= ranks:
            steps = _steps(_units(lengths, ring, share), ranks)
            found.append((sum(step[0][2] for step in steps), len(found), steps))
    steps = min(found)[2]
    draft = Draft(ranks)
    for number, step in enumerate(steps):
        rank = 0
        for degree, documents, _ in step:
            for document in documents:
                draft.spread(document, int(lengths[document]), rank, degree, number, ring)
            rank += degree
    return draft.done(len(steps))


def _units(lengths, cost, share):
    """[(ranks, documents, seconds)]: each long document by itself, the others in bins of `share` tokens."""
    need = -(-lengths // share)
    units = [
        (int(need[d]), [int(d)], float(cost.seconds(lengths[d : d + 1], int(need[d]))[0]))
        for d in np.flatnonzero(need > 1)
    ]
    short = np.flatnonzero(need == 1)
    if len(short):
        count, work = -(-int(lengths[short].sum()) // share), cost.work(lengths[short])
        while (owner := bins.least_work(work, lengths[short], count, share)) is None:
            count += 1
        spent = np.bincount(owner, work, count)
        units += [(1, short[owner == at].tolist(), float(spent[at])) for at in range(count)]
    return units


def _steps(units, ranks):
    """Units of like work by step: the most work first, to the first step of a window that has ranks left for it."""
    steps, left = [], []
    for unit in sorted(units, key=lambda unit: (-unit[2], unit[1])):
        at = next((i for i, free in enumerate(left) if free >= unit[0]), len(steps))
        if at == len(steps):
            steps.append([])
            left.append(ranks)
        steps[at].append(unit)
        left[at] -= unit[0]
    return steps
