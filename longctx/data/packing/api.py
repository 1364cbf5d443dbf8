"""The ways to pack documents into rows, by name."""

from collections.abc import Mapping

from longctx.data.packing import (
    best_fit,
    concat_and_cut,
    decomposition,
    in_context,
    interleave,
    nextlong,
    padded,
    repository,
    untie_the_knots,
)
from longctx.data.packing.packing import Pack, by_lengths
from longctx.errors import unknown_name

PACKINGS: Mapping[str, Pack] = {
    "best_fit": by_lengths(best_fit.pack),
    "concat_and_cut": by_lengths(concat_and_cut.pack),
    "decomposition": by_lengths(decomposition.pack),
    "in_context": in_context.pack,
    "interleave": by_lengths(interleave.pack),
    "nextlong": nextlong.pack,
    "none": by_lengths(padded.pack),
    "repository": repository.pack,
    "untie_the_knots": by_lengths(untie_the_knots.pack),
}
COMPARED = frozenset({"in_context", "nextlong"})  # compare all of the text: about 1 s for 10^6 tokens


def check(name: str) -> None:
    """Raises UserError for a data.packing that is not known."""
    if name not in PACKINGS:
        raise unknown_name("data.packing", name, PACKINGS)
