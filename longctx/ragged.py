"""Arrays of runs of unequal lengths, one after the other."""

import numpy as np


def ragged_arange(lengths: np.ndarray) -> np.ndarray:
    """0 .. lengths[0] - 1, 0 .. lengths[1] - 1, and so on, as one array."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
