"""FLOPs in closed form beside counts of every pair."""

import numpy as np
import pytest

from experiments.planner.work import density
from longctx.config import ModelConfig


@pytest.mark.parametrize(
    "position, mask, seen",
    [
        ("rope", "causal", lambda q, k: k <= q),
        ("rope", "causal & window(64)", lambda q, k: (k <= q) & (q - k < 64)),
        ("lm_infinite(10, 64)", "causal", lambda q, k: (k <= q) & ((q - k < 64) | (k < 10))),
        ("self_extend(4, 64)", "causal", lambda q, k: k <= q),
    ],
)
def test_the_density_is_that_of_the_pairs_that_a_mask_and_a_method_leave(position, mask, seen):
    (kind,) = ModelConfig(position=position, mask=mask).kinds
    q, k = np.ogrid[:512, :512]
    assert density(kind, 512) == pytest.approx(seen(q, k).mean(), rel=0.03)
