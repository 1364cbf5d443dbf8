import numpy as np
import pytest

from experiments.pictures import positions as position_figures

APART = np.subtract.outer(np.arange(24), np.arange(24))
SEEN = APART >= 0


@pytest.mark.parametrize(
    "position, distance, seen",
    [
        ("rope", APART, SEEN),
        ("rerope(5)", np.minimum(APART, 5), SEEN),
        ("leaky_rerope(5, 4)", np.where(APART < 5, APART, 5 + (APART - 5) / 4), SEEN),
        ("lm_infinite(3, 6)", np.minimum(APART, 6), SEEN & ((APART < 6) | (np.arange(24) < 3)[None])),
    ],
)
def test_distances_are_those_of_the_definition(position, distance, seen):
    got = position_figures.distances(position, 24)
    assert np.array_equal(np.isfinite(got), seen)
    assert np.array_equal(got[seen], distance[seen])
