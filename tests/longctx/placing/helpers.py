"""A small Cost, and plans counted pair by pair."""

import numpy as np

from longctx.placing import Cost

COST = Cost(
    pair=1.0,
    token=10.0,
    query_bytes=4.0,
    key_bytes=2.0,
    rates=((2, 20.0), (8, 5.0)),
    capacity=64,
    row=256,
    heads=4,
    kv_heads=2,
)


def computed(placement, lengths):
    """For each document float64 [queries, keys]: how often each pair is computed, over all heads."""
    counts = [np.zeros((length, length)) for length in lengths]
    for document, first, end, _, _, parts in zip(*placement.attention, strict=True):
        counts[document][first:end] += np.tri(lengths[document])[first:end] / parts
    return counts


def received(placement, lengths, cost):
    """Bytes that all ranks receive, token by token."""
    total = 0.0
    lies = {
        (document, token): rank
        for document, first, end, rank, *_ in zip(*placement.homes, strict=True)
        for token in range(first, end)
        if document >= 0
    }
    keys = {}
    for document, first, end, rank, _, parts in zip(*placement.attention, strict=True):
        away = sum(lies[document, token] != rank for token in range(first, end))
        total += away * cost.query_bytes / parts
        share = 1.0 if parts == 1 else max(1 / parts, 1 / cost.kv_heads)
        keys[document, rank] = max(keys.get((document, rank), (0, share)), (end, share))
    for (document, rank), (end, share) in keys.items():
        total += sum(lies[document, token] != rank for token in range(end)) * share * cost.key_bytes
    return total
