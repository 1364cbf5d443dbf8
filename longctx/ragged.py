"""Arrays of runs of unequal lengths, one after the other."""

import numpy as np
from jaxtyping import Int


def ragged_arange(lengths: Int[np.ndarray, " runs"]) -> Int[np.ndarray, " total"]:
    """np.arange of every length, joined: lengths [2, 3] give [0, 1, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
