"""Held-out text cut at drawn places, so that trainings are compared on the same targets."""

import numpy as np


def drawn(documents, tokenizer, longest: int, count: int) -> list:
    """(longctx.evals.batches.LongDocument, place of the target behind its last one) of up to `count` documents, each
    cut at a place that is drawn, from `longest` targets on; none where no document has so many."""
    from longctx.evals import batches

    rng = np.random.default_rng(0)
    of = batches.long_documents(documents, tokenizer, (longest,), count, 0)[longest]
    return [(document, int(rng.integers(longest, document.targets + 1))) for document in of]
