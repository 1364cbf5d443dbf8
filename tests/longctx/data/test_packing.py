import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.config import DataConfig
from longctx.data import sources
from longctx.data.packing import deal, finish_together, pack
from longctx.ragged import ragged_arange

lengths_and_capacity = st.tuples(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 40))


def best_fit_reference(lengths, capacity) -> list[int]:
    """The space left in every row after best-fit-decreasing, written as its definition."""
    left = []
    for length in sorted(lengths, reverse=True):
        fits = [space for space in left if space >= length]
        if fits:
            left[left.index(min(fits))] -= length
        else:
            left.append(capacity - length)
    return left


@given(lengths_and_capacity)
def test_every_token_lies_in_exactly_one_place(case):
    lengths, capacity = case
    packing = pack(np.array(lengths, np.int64), capacity)
    tokens = [set() for _ in lengths]
    places = set()
    for row in range(packing.rows):
        pieces = range(packing.row_start[row], packing.row_start[row + 1])
        assert len(pieces)
        for piece in pieces:
            document, start, length, column = (
                int(getattr(packing, name)[piece]) for name in ("document", "start", "length", "column")
            )
            assert 0 <= column and column + length <= capacity
            for i in range(length):
                assert start + i not in tokens[document] and (row, column + i) not in places
                tokens[document].add(start + i)
                places.add((row, column + i))
    assert tokens == [set(range(length)) for length in lengths]
    if lengths:
        assert packing.waste == pytest.approx(1 - sum(lengths) / (packing.rows * capacity))


@given(lengths_and_capacity)
def test_only_documents_longer_than_a_row_are_cut(case):
    lengths, capacity = case
    packing = pack(np.array(lengths, np.int64), capacity)
    pieces = np.bincount(packing.document, minlength=len(lengths))
    assert pieces.tolist() == [-(-length // capacity) for length in lengths]
    assert (packing.start % capacity == 0).all()


@given(lengths_and_capacity)
def test_rows_are_those_of_best_fit_decreasing(case):
    lengths, capacity = case
    packing = pack(np.array(lengths, np.int64), capacity)
    filled = [
        int(packing.length[a:b].sum()) for a, b in zip(packing.row_start[:-1], packing.row_start[1:], strict=True)
    ]
    rests = best_fit_reference([length % capacity for length in lengths if length % capacity], capacity)
    full = sum(length // capacity for length in lengths)
    assert sorted(filled) == sorted([capacity - space for space in rests] + [capacity] * full)


def test_a_perfect_fit_wastes_nothing():
    packing = pack(np.array([3, 5, 6, 2, 8, 16]), 8)
    assert packing.rows == 5 and packing.waste == 0


def test_no_documents():
    packing = pack(np.array([], np.int64), 8)
    assert packing.rows == 0 and packing.waste == 0


@pytest.mark.parametrize("lengths, capacity", [([0, 3], 8), ([3], 0)])
def test_lengths_and_capacity_are_positive(lengths, capacity):
    with pytest.raises(ValueError, match="at least 1"):
        pack(np.array(lengths), capacity)


def test_the_standard_library_packs_tightly(record_property):
    lengths = np.array([len(document.text) + 1 for document in sources.load(DataConfig()).train])
    for capacity, limit in ((512, 0.001), (2048, 0.001), (8192, 0.002)):
        waste = pack(lengths, capacity).waste
        record_property(f"waste_{capacity}", waste)
        assert waste < limit


@pytest.mark.parametrize("capacity", [2048, 1 << 20])
def test_a_hundred_thousand_documents_take_seconds(capacity):
    lengths = np.random.default_rng(0).lognormal(7, 1.8, 100_000).astype(np.int64) + 1
    start = time.process_time()
    packing = pack(lengths, capacity)
    assert time.process_time() - start < 5
    assert packing.length.sum() == lengths.sum() and packing.waste < 0.01


def test_ragged_arange():
    assert ragged_arange(np.array([3, 0, 2])).tolist() == [0, 1, 2, 0, 1]
    assert ragged_arange(np.array([], np.int64)).tolist() == []


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
