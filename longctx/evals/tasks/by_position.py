"""Loss by position in the context: a model that uses what it has read predicts later tokens better."""

import math

import numpy as np

from longctx.evals import batches

FIRST_BUCKET = 8  # positions below this form one bucket; then there are two buckets per octave


def bucket_edges(length: int) -> list[int]:
    """Edges of log-spaced buckets over positions [0, length)."""
    edges = [0]
    while (edge := round(FIRST_BUCKET * 2 ** ((len(edges) - 1) / 2))) < length:
        edges.append(edge)
    return [*edges, length]


def run(predictor, documents, tokenizer, config, lengths, seed) -> dict:
    """Mean loss in nats per token by position, at each length; standard errors are over documents.

    Position p has seen p + 1 tokens. `edges[i] <= p < edges[i + 1]` is bucket i of `loss` and `error`.
    """
    chosen = batches.long_documents(documents, tokenizer, lengths, config.documents, seed)
    return {
        "what": "mean loss of held-out text by position in the context",
        "units": {
            "edges": "tokens",
            "loss": "nats per token",
            "error": "nats per token, standard error over documents",
            "mean": "nats per token",
            "bits_per_byte": "bits per byte",
        },
        "lengths": [_at_length(predictor, chosen[length], tokenizer, length, seed) for length in lengths],
    }


def _at_length(predictor, documents, tokenizer, length, seed) -> dict:
    if not documents:
        return {"length": length, "documents": 0, "windows": 0, "reason": batches.NONE_LONG_ENOUGH}
    rng = np.random.default_rng([seed, length])
    cuts = [batches.windows(document, length, tokenizer.bos, rng) for document in documents]
    predictions = batches.score(predictor, [[piece] for cut in cuts for piece in cut], length, tokenizer.pad)
    flat = iter([prediction.nll for (prediction,) in predictions])
    by_document = np.stack([np.mean([next(flat) for _ in cut], axis=0) for cut in cuts])  # [documents, length]
    edges = bucket_edges(length)
    buckets = [
        batches.mean_and_error(by_document[:, low:high].mean(axis=1))
        for low, high in zip(edges, edges[1:], strict=False)
    ]
    mean, error = batches.mean_and_error(by_document.mean(axis=1))
    tokens_per_byte = sum(d.targets for d in documents) / sum(d.size for d in documents)
    return {
        "length": length,
        "documents": len(documents),
        "windows": len(predictions),
        "mean": mean,
        "mean_error": error,
        "bits_per_byte": batches.number(by_document.mean() / math.log(2) * tokens_per_byte),
        "edges": edges,
        "loss": [loss for loss, _ in buckets],
        "error": [error for _, error in buckets],
    }
