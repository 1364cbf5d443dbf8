"""The balanced layout: even work, few keys to move. What all layouts have in common is in test_layouts.py."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.meter.lengths import KINDS, documents, row
from longctx import balance, layouts
from longctx.layouts import balanced
from tests.longctx.layouts.test_layouts import packed_rows, rows

REACHES = [((None, 1),), ((5, 1),), ((5, 3), (None, 1)), ((1, 2), (9, 2))]


def loads(segments, owner, shards, reach=None):
    """Pairs of the queries of each shard, of a row with segments [T]."""
    starts = np.diff(segments, prepend=-1) != 0
    position = np.arange(len(segments)) - np.maximum.accumulate(np.where(starts, np.arange(len(segments)), 0))
    seen = np.minimum(position + 1, len(segments) if reach is None else reach)
    return np.bincount(owner, np.where(segments > 0, seen, 0), shards)


def largest_chunk(segments, width):
    return loads(segments, np.arange(len(segments)) // width, len(segments) // width).max()


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 6), st.sampled_from([1, 2, 5]), st.data())
def test_work_is_even_but_for_a_chunk(shards, width, data):
    """Equally many tokens, and work within the tolerance, or within a chunk where chunks are more than that."""
    _, segments = rows(*data.draw(packed_rows(shards * width)))
    owner = balanced.Balanced(width).owner(segments, shards, layouts.CAUSAL)
    for one, mine in zip(segments, owner, strict=True):
        assert (np.bincount(mine, minlength=shards) == segments.shape[1] // shards).all()
        load = loads(one, mine, shards)
        assert load.max() <= load.mean() + max(balanced.TOLERANCE * load.mean(), largest_chunk(one, width))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from([2, 3]), st.sampled_from([1, 3]))
def test_no_other_plan_is_better_by_more_than_a_chunk(lengths, shards, width):
    """Against all plans for up to six documents in six chunks."""
    chunks = shards * (6 // shards)
    segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    segments = np.pad(segments, (0, chunks * width))[: chunks * width]
    deal = lambda owner: loads(segments, np.repeat(owner, width), shards).max()
    every = set(itertools.permutations([chunk % shards for chunk in range(chunks)]))
    best = min(deal(np.array(owner)) for owner in every)
    assert deal(balanced.plan(segments, shards, width, layouts.CAUSAL)) <= best + largest_chunk(segments, width) / 2


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(1, 9), st.sampled_from([1, 3]))
def test_one_document_is_zigzag(shards, size, width):
    segments = np.ones((1, 2 * shards * width * size), int)
    orders = [layouts.permutation(name, segments, shards) for name in (f"balanced({width})", "zigzag")]
    np.testing.assert_array_equal(*orders)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(REACHES), st.data())
def test_rows_are_planned_alone_and_always_alike(reaches, data):
    _, segments = rows(*data.draw(packed_rows(4)))
    together = layouts.permutation("balanced", segments, 4, reaches)
    np.testing.assert_array_equal(together, layouts.permutation("balanced", segments, 4, reaches))
    for i in range(2):
        np.testing.assert_array_equal(
            together[i : i + 1], layouts.permutation("balanced", segments[i : i + 1], 4, reaches)
        )


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(REACHES), st.data())
def test_the_plan_of_several_masks_is_the_best_of_theirs(reaches, data):
    _, segments = rows(*data.draw(packed_rows(4)))

    def waited(owner):
        return sum(layers * loads(segments[0], owner[0], 4, reach).max() for reach, layers in reaches)

    plan = lambda reaches: balanced.Balanced().owner(segments[:1], 4, reaches)
    assert waited(plan(reaches)) == min(waited(plan((kind,))) for kind in reaches)


def test_a_row_of_padding_is_dealt_too():
    owner = balanced.Balanced(2).owner(np.zeros((1, 24), int), 4, layouts.CAUSAL)
    assert (np.bincount(owner[0]) == 6).all()


@pytest.mark.parametrize("shards", [8, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_the_work_of_real_lengths_is_even(kind, shards):
    for seed in (100, 101):
        one = row(documents(kind, 8192 * shards, seed))
        owner = balanced.Balanced(256).owner(one["segments"], shards, layouts.CAUSAL)[0]
        load = np.bincount(owner, one["positions"][0] + 1.0)
        assert balance.most(load) <= 1 + balanced.TOLERANCE < 1.02
        assert (np.bincount(owner) == 8192).all()


def test_short_documents_stay_whole_beside_a_long_one():
    """The long one is on every shard; of the others one is cut at every end of a shard, and those at the ends of the
    long one, besides what chunks have to be swapped."""
    lengths = np.concatenate([[3000], np.random.default_rng(0).integers(20, 60, 300)])
    segments = np.repeat(np.arange(1, 302), lengths)[:8192]
    owner = balanced.Balanced(16).owner(segments[None], 8, layouts.CAUSAL)[0]
    shards_of = [len(np.unique(owner[segments == document])) for document in np.unique(segments)]
    assert shards_of[0] == 8 and sum(np.array(shards_of[1:]) > 1) <= 2 * 7 + 2


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_keys_move_than_under_other_even_layouts(kind):
    one = row(documents(kind, 8192 * 8, 100))
    moved = {
        name: balance.measure(**layouts.lay_out(one, name, 8), shards=8)
        for name in ("balanced(256)", "per_document(256)", "striped(256)")
    }
    ours = moved.pop("balanced(256)")
    assert ours.received_most <= 1 and all(ours.received < other.received for other in moved.values())
