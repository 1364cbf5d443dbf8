"""The ways to pack documents into rows, by name."""

import re
from collections.abc import Mapping

from longctx.data.packing import (
    best_fit,
    concat_and_cut,
    decomposition,
    embeddings,
    in_context,
    interleave,
    nextlong,
    padded,
    repository,
    untie_the_knots,
)
from longctx.data.packing.embeddings import Embeddings
from longctx.data.packing.packing import Pack, by_lengths
from longctx.errors import UserError, unknown_name

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


EMBEDDED = frozenset({"in_context"})  # may take a file of embeddings: "in_context(FILE.npy)"


def parse(text: str) -> tuple[str, Embeddings | None]:
    """(the name in PACKINGS, the embeddings in the file that it is given or None) of a data.packing.

    Raises UserError for a name that is not known, or takes no file, and for a file that holds no embeddings.
    """
    match = re.fullmatch(r"\s*(\w+)\s*\((.+)\)\s*", text)
    name, path = (match[1], match[2].strip()) if match else (text, "")
    if name not in PACKINGS:
        raise unknown_name("data.packing", name, PACKINGS)
    if path and name not in EMBEDDED:
        raise UserError(f"data.packing={text!r}: {name} takes no file; {' and '.join(EMBEDDED)} may take embeddings.")
    return name, embeddings.load(path, f"data.packing={text!r}") if path else None
