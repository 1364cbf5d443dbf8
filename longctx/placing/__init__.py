"""Plans of where documents of uneven length are computed: api.py has the schemes, placement.py what a plan is.

Numbers on the host, free of jax: no training step follows these plans. A static program (SPMD) runs one and the same
program on all ranks and cannot cut each step into groups of its own, as flexsp, bytescale and wlb do with one program
for each group; those are computed here to be compared with `dispatch`, which is what longctx does.
"""

from longctx.placing.api import SCHEMES, place
from longctx.placing.cost import Cost
from longctx.placing.placement import Measures, Placement, Runs, broken, measure

__all__ = ["SCHEMES", "Cost", "Measures", "Placement", "Runs", "broken", "measure", "place"]
