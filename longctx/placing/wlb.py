"""WLB-LLM (arXiv 2503.17924): whole documents to data-parallel groups, by work and not by tokens."""

import numpy as np

from longctx.placing import bins
from longctx.placing.cost import Cost, degrees
from longctx.placing.placement import Placement, groups


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """Groups of one size, the power of two by which the batch takes least time; each shards every document by itself.

    Work is (l/B)^2 + l/B with B = Cost.crossing, of the model at hand. Longest first to the group and step of least
    work that has room. Where the original puts what is left over on the least work beyond all room, there is one more
    step here; documents are not delayed to later batches.
    """
    found = [x for degree in degrees(ranks) if (x := _with(lengths, ranks, cost, degree)) is not None]
    batches, _ = min(found, key=lambda x: x[1])
    return groups(batches, lengths, ranks, cost)


def _with(lengths, ranks, cost, degree):
    """(steps of groups of `degree` ranks, their time); None where a document does not fit on one."""
    slots, count = cost.slots(lengths, degree), ranks // degree
    if slots.max() > cost.capacity:
        return None
    work = (lengths / cost.crossing) ** 2 + lengths / cost.crossing
    steps = bins.fewest(slots, count, cost)
    while (owner := bins.least_work(work, slots, steps * count, cost.capacity)) is None:
        steps += 1
    return bins.dealt(owner, cost.seconds(lengths, degree), count, degree)
