"""The best groups of ranks of all there are: what tests compare the schemes for groups with."""

import itertools

import numpy as np

from longctx.errors import UserError
from longctx.placing import batches
from longctx.placing.cost import Cost

DOCUMENTS, RANKS = 8, 4  # at most: every assignment is looked at


def search(lengths: np.ndarray, ranks: int, cost: Cost) -> batches.Groups:
    """All documents of one step in the groups of powers of two and the assignment that take least time.

    Raises UserError for more than DOCUMENTS or RANKS, and where one step does not hold all of them.
    """
    if len(lengths) > DOCUMENTS or ranks > RANKS:
        raise UserError(f"{len(lengths)} documents on {ranks} ranks: at most {DOCUMENTS} on {RANKS} can be searched.")
    sizes, seconds, slots = batches.times(lengths, ranks, cost)
    best = np.inf, None, None
    for kinds in _compositions(sizes, ranks):
        choices = np.array(list(itertools.product(range(len(kinds)), repeat=len(lengths))))
        inside = choices[:, :, None] == np.arange(len(kinds))  # [choices, documents, groups]
        of = np.array(kinds)
        spent = np.where(inside, seconds[of].T, 0.0).sum(1).max(1)
        spent[(np.where(inside, slots[of].T, 0).sum(1) > cost.capacity).any(1)] = np.inf
        at = int(spent.argmin())
        best = min(best, (float(spent[at]), kinds, choices[at]), key=lambda found: found[0])
    if best[1] is None:
        raise UserError(f"capacity={cost.capacity} tokens a rank does not hold all documents in one step; more would.")
    found = [(sizes[kind], np.flatnonzero(best[2] == g)) for g, kind in enumerate(best[1])]
    return [(degree, documents) for degree, documents in found if len(documents)]


def _compositions(sizes, ranks, largest=None):
    """Yields the groups that fill the ranks, as indices of sizes, widest first."""
    if not ranks:
        yield ()
    for kind in range(len(sizes) if largest is None else largest + 1):
        if sizes[kind] <= ranks:
            for rest in _compositions(sizes, ranks - sizes[kind], kind):
                yield (kind, *rest)
