"""One degree of sequence parallelism for all documents: what the others are compared with."""

import numpy as np

from longctx.placing import bins
from longctx.placing.cost import Cost, degrees
from longctx.placing.placement import Placement, groups


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """Groups of one size, the power of two by which the batch takes least time.

    Documents go first-fit, longest first, into groups with room for the fewest tokens with which that works: at the
    whole capacity first fit would fill some groups and leave others empty.
    """
    found = [x for degree in degrees(ranks) if (x := _with(lengths, ranks, cost, degree)) is not None]
    batches, _ = min(found, key=lambda x: x[1])
    return groups(batches, lengths, ranks, cost)


def _with(lengths, ranks, cost, degree):
    """(steps of groups of `degree` ranks, their time); None where a document does not fit on one."""
    slots, count = cost.slots(lengths, degree), ranks // degree
    if slots.max() > cost.capacity:
        return None
    steps = bins.fewest(slots, count, cost)
    while (owner := bins.tightest(slots, steps * count, cost.capacity)) is None:
        steps += 1
    return bins.dealt(owner, cost.seconds(lengths, degree), count, degree)
