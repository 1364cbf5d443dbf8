"""WLB-LLM (arXiv 2503.17924): whole documents to data-parallel groups, by work and not by tokens."""

import numpy as np

from longctx.placing import batches, bins
from longctx.placing.cost import Cost
from longctx.placing.placement import Placement


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """Groups of one size, the power of two by which the batch takes least time; each shards every document by itself.

    Work is (l/B)^2 + l/B with B = Cost.crossing, of the model at hand. Longest first to the group and step of least
    work that has room. Where the original puts what is left over on the least work beyond all room, there is one more
    step here; documents are not delayed to later batches.
    """
    work = (lengths / cost.crossing) ** 2 + lengths / cost.crossing
    return batches.of_one_size(
        lengths, ranks, cost, lambda slots, count: bins.least_work(work, slots, count, cost.capacity)
    )
