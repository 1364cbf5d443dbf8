"""What context is worth: the loss of the same tokens, read with less and with more of the text before them."""

import numpy as np

from longctx.evals import batches

SHORTEST = 128  # tokens of the shortest context, where the length allows it


def contexts_at(length: int) -> list[int]:
    """Context sizes in tokens, halving from `length` down to SHORTEST (at least two of them): increasing."""
    contexts = [length]
    while contexts[0] // 2 >= SHORTEST or len(contexts) < 2:
        contexts.insert(0, contexts[0] // 2)
    return contexts


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """gain[i] = loss(contexts[i]) - loss(full context) on the same tokens, in nats per token, at each length.

    The scored tokens are the last ones of a window, half as many as the shortest context holds; a context of c tokens
    is the last c of that window. Only this comparison is fair across lengths: the text that is scored never changes.
    """
    chosen = batches.long_documents(documents, tokenizer, lengths, config.documents, seed)
    return {
        "what": "loss of the same held-out tokens with a short context minus with the full one",
        "units": {
            "contexts": "tokens",
            "scored": "tokens per window",
            "loss": "nats per token",
            "gain": "nats per token",
            "error": "nats per token, standard error of the gain over documents",
        },
        "lengths": [_at_length(predictor, chosen[length], tokenizer, length, seed) for length in lengths],
    }


def _at_length(predictor, documents, tokenizer, length, seed) -> dict:
    contexts = contexts_at(length)
    scored = contexts[0] // 2
    if not documents or not scored:
        reason = "the context is too short to halve" if documents else batches.NONE_LONG_ENOUGH
        return {"length": length, "documents": 0, "windows": 0, "reason": reason}
    rng = np.random.default_rng([seed, length])
    cuts = [batches.windows(document, length, tokenizer.bos, rng) for document in documents]
    rows = [row for cut in cuts for full in cut for row in _rows(full, contexts, tokenizer.bos)]
    predictions = iter(batches.score(predictor, rows, length, tokenizer.pad))
    by_document = []  # [documents, contexts]
    for cut in cuts:
        per_window = [next(predictions) + next(predictions) for _ in cut]  # short contexts, then the full one
        by_document.append(np.mean([[p.nll[-scored:].mean() for p in window] for window in per_window], axis=0))
    loss = np.stack(by_document)
    gains = [batches.mean_and_error(column) for column in (loss - loss[:, -1:]).T]
    return {
        "length": length,
        "documents": len(documents),
        "windows": len(rows) // 2,
        "scored": scored,
        "contexts": contexts,
        "loss": [batches.number(value) for value in loss.mean(axis=0)],
        "gain": [gain for gain, _ in gains],
        "error": [error for _, error in gains],
    }


def _rows(full: batches.Piece, contexts: list[int], bos: int) -> tuple[list, list]:
    """All shorter contexts fit in one row, as separate documents: 1/2 + 1/4 + ... < 1."""
    ids = np.append(full.inputs, full.targets[-1])
    return [batches.last_tokens(ids, len(full.inputs), context, bos) for context in contexts[:-1]], [full]
