"""Factors on queries, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from longctx.errors import UserError
from longctx.positions import query_scale
from tests.helpers import assert_close

POSITIONS = jnp.asarray([[0, 6, 7, 14, 15, 8191, 10**6]], jnp.int32)


def test_llama4_steps_where_whole_multiples_of_floor_scale_are_seen():
    want = 1 + 0.5 * np.log(np.array([[1, 1, 2, 2, 3, 1025, 1 + 1_000_001 // 8]]))
    assert_close(query_scale.Llama4(floor_scale=8, attn_scale=0.5)(POSITIONS), want, "float32", 1)
    published = np.array([[1, 1, 1, 1, 1, 1 + 0.1 * np.log(2), 1 + 0.1 * np.log(1 + 1_000_001 // 8192)]])
    assert_close(query_scale.Llama4()(POSITIONS), published, "float32", 1)


def test_mscale_is_yarns_factor_for_all():
    assert_close(query_scale.parse("mscale(8)")(POSITIONS), np.full((1, 7), 0.1 * np.log(8) + 1), "float32", 1)
    with pytest.raises(UserError, match=r"mscale\(0.5\).*at least 1"):
        query_scale.parse("mscale(0.5)")


def test_log_length_is_one_within_the_length_and_log_n_beyond():
    want = np.array([[1, 1, 1, np.log(15) / np.log(8), np.log(16) / np.log(8), 13 / 3, np.log(1_000_001) / np.log(8)]])
    assert_close(query_scale.LogLength(8)(POSITIONS), want, "float32", 1)
    with pytest.raises(UserError, match=r"query_scale='log_length\(1\)' .*divides by ln\(1\) = 0; length must be 2"):
        query_scale.parse("log_length(1)")


def test_none_is_no_factor():
    assert query_scale.parse("none")(POSITIONS) is None
