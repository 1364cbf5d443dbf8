"""Rows of a batch joined to longer ones, for attention.across_rows: to layouts, kernels and strategies they are one.

Documents keep their positions and get other segments, so no token sees more or less than before. Free of jax.
"""

import numpy as np


def joined(batch: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The batch with every `count` rows in one, one after another: arrays [B, T] become [B / count, count * T].

    Segments are numbered through. "sources" [B, sources] becomes [B / count, count, sources], and "rows" says for each
    token which of the `count` rows it is of; without sources nobody asks.
    """
    if count == 1:
        return batch
    segments = batch["segments"]
    last = segments.max(1, initial=0).reshape(-1, count)
    before = (np.cumsum(last, 1, dtype=np.int32) - last).reshape(-1, 1)
    batch = batch | {"segments": np.where(segments > 0, segments + before, 0)}
    if "sources" in batch:
        row = np.arange(len(segments), dtype=np.int32) % count
        batch["rows"] = np.broadcast_to(row[:, None], segments.shape)
    whole = lambda x: x.reshape(-1, count * x.shape[1])
    apart = lambda x: x.reshape(-1, count, x.shape[1])
    return {name: (apart if name == "sources" else whole)(x) for name, x in batch.items()}
