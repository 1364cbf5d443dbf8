"""The schemes of placing documents, by name, and the one way to call them.

To add one: a file here with a function (lengths, ranks, cost) -> Placement, and a line in SCHEMES. The tests then hold
it to the laws of placement.broken: each (query, key) pair computed exactly once, capacities kept, nothing drawn.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from longctx.errors import unknown_name
from longctx.placing import bytescale, dispatch, distca, flexsp, flexsp_greedy, homogeneous, wlb, zeppelin
from longctx.placing.cost import Cost, check
from longctx.placing.placement import Placement

Plan = Callable[[np.ndarray, int, Cost], Placement]

SCHEMES: Mapping[str, Plan] = {
    "homogeneous": homogeneous.plan,
    "flexsp": flexsp.plan,
    "flexsp_greedy": flexsp_greedy.plan,
    "bytescale": bytescale.plan,
    "wlb": wlb.plan,
    "distca": distca.plan,
    "zeppelin": zeppelin.plan,
    "dispatch": dispatch.plan,
    "dispatch_rows": dispatch.across_rows,
}
OURS = "dispatch", "dispatch_rows"  # what training does, with attention.across_rows the latter


def place(scheme: str, lengths: Sequence[int] | np.ndarray, ranks: int, cost: Cost) -> Placement:
    """The Placement of documents of the given lengths, a global batch, on ranks by a scheme of SCHEMES.

    Raises UserError for an unknown scheme, and for lengths that do not fit on the ranks.
    """
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, SCHEMES)
    return SCHEMES[scheme](check(np.asarray(lengths), ranks, cost), ranks, cost)
