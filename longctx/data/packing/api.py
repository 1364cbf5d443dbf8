"""The ways to pack documents into rows, by name."""

from collections.abc import Mapping

from longctx.data.packing import best_fit, concat_and_cut, decomposition, padded
from longctx.data.packing.packing import Pack
from longctx.errors import unknown_name

PACKINGS: Mapping[str, Pack] = {
    "best_fit": best_fit.pack,
    "concat_and_cut": concat_and_cut.pack,
    "decomposition": decomposition.pack,
    "none": padded.pack,
}


def check(name: str) -> None:
    """Raises UserError for a data.packing that is not known."""
    if name not in PACKINGS:
        raise unknown_name("data.packing", name, PACKINGS)
