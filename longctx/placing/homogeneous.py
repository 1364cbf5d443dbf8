"""One degree of sequence parallelism for all documents: what the others are compared with."""

import numpy as np

from longctx.placing import batches, bins
from longctx.placing.cost import Cost
from longctx.placing.placement import Placement


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """Groups of one size, the power of two by which the batch takes least time.

    Documents go first-fit, longest first, into groups with room for the fewest tokens with which that works: at the
    whole capacity first fit would fill some groups and leave others empty.
    """
    return batches.of_one_size(lengths, ranks, cost, lambda slots, count: bins.tightest(slots, count, cost.capacity))
