"""Rows of a batch are dealt out so that ranks finish together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longctx.data.dealing import deal, finish_together


@given(st.lists(st.integers(0, 100), min_size=1, max_size=12), st.integers(1, 4))
def test_ranks_finish_together(works, ranks):
    """Equally many rows each; the busiest is above the least busy by one row's work at most."""
    work = np.array(works * ranks)
    batch = 100 + np.random.default_rng(len(works)).permutation(len(work))
    ordered = finish_together(batch, work[batch - 100], ranks)
    assert sorted(ordered) == sorted(batch)
    by_rank = work[ordered - 100].reshape(ranks, -1)
    owner = deal(work[batch - 100], ranks)
    np.testing.assert_array_equal(by_rank.sum(axis=1), np.bincount(owner, work[batch - 100], ranks))
    assert np.ptp(by_rank.sum(axis=1)) <= work.max()
