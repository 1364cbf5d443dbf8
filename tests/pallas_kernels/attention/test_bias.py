"""Biases against transformers (golden/make_positions.py): T5's buckets and ALiBi's slopes, as the scores have them."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.attention import bias
from pallas_kernels.masks import TokenInfo
from tests.helpers import ROOT, assert_close

GOLDEN = np.load(ROOT / "tests/golden" / "positions.npz")


def scores(kind, params, distances):
    """[N, distances]: of queries around a key."""
    at = lambda positions: TokenInfo(jnp.asarray(positions, jnp.int32), jnp.ones(len(positions), jnp.int32))
    return bias.scores(kind, jnp.asarray(params), at(1000 + distances), at([1000]))[..., 0]


@pytest.mark.parametrize("case", [name for name in GOLDEN if name.startswith("t5/")])
def test_t5_reads_the_published_bucket_of_every_distance(case):
    buckets, farthest, bidirectional = case.removeprefix("t5/").split("-")
    params = np.random.default_rng(0).standard_normal((3, int(buckets))).astype(np.float32)
    got = scores(bias.T5(int(buckets), int(farthest), bidirectional == "True"), params, GOLDEN["distances"])
    np.testing.assert_array_equal(got, params[:, GOLDEN[case]])


@pytest.mark.parametrize("case", [name for name in GOLDEN if name.startswith("alibi/")])
def test_alibi_slopes_are_those_of_bloom(case):
    slopes = bias.alibi_slopes(len(GOLDEN[case]))
    assert_close(slopes[:, 0], GOLDEN[case], "float32", 1)
    distances = np.array([0, 1, 7, 1000])
    assert_close(scores(bias.Alibi(), slopes, distances), -slopes * distances, "float32", 1)
