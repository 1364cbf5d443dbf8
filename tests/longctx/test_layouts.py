import numpy as np
import pytest

from longctx import layouts
from longctx.errors import UserError


@pytest.mark.parametrize("name", layouts.LAYOUTS)
@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5, 8])
def test_a_layout_is_a_permutation_with_an_exact_inverse(name, shards):
    order = layouts.permutation(name, 120 * shards, shards)
    assert np.array_equal(np.sort(order), np.arange(120 * shards))
    assert np.array_equal(order[layouts.inverse(order)], np.arange(120 * shards))


@pytest.mark.parametrize("name, worst", [("contiguous", 1.75), ("zigzag", 1.0), ("striped", 1.003)])
def test_causal_work_of_the_busiest_shard(name, worst):
    work = layouts.permutation(name, 1024, 4).reshape(4, -1).sum(1) + 256       # token i attends to i + 1 keys
    assert work.max() / work.mean() == pytest.approx(worst, abs=0.001)


def test_apply_moves_every_array_alike():
    order = layouts.permutation("zigzag", 16, 2)
    batch = {"a": np.arange(32).reshape(2, 16), "b": np.arange(32).reshape(2, 16) * 2}
    moved = layouts.apply(batch, order)
    assert np.array_equal(moved["a"] * 2, moved["b"])
    assert np.array_equal(moved["a"][:, layouts.inverse(order)], batch["a"])


@pytest.mark.parametrize("name, length, near", [
    ("zigzag", 1001, "1000 or 1008"), ("striped", 1002, "1000 or 1004"), ("zigzag", 3, "Nearest: 8")])
def test_a_length_that_does_not_divide_names_those_that_do(name, length, near):
    with pytest.raises(UserError, match=near):
        layouts.permutation(name, length, 4)


def test_an_unknown_layout_names_the_known():
    with pytest.raises(UserError, match="Did you mean 'zigzag'"):
        layouts.permutation("zig-zag", 16, 2)
