"""Every scheme places every batch by the laws, and the laws see what breaks them."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.errors import UserError
from longctx.placing import SCHEMES, broken, measure, place
from longctx.placing.placement import PADDING, Draft, Runs
from tests.longctx.placing.helpers import COST, computed


@st.composite
def batches(draw, most_ranks=8):
    """(lengths, ranks, Cost): documents that fit on the ranks, and in rows that divide over them."""
    ranks, share = draw(st.integers(1, most_ranks)), draw(st.integers(1, 40))
    capacity = draw(st.integers(share, 2 * share))
    longest = min(share * ranks, capacity << (ranks.bit_length() - 1))
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=24))
    cost = dataclasses.replace(
        COST,
        capacity=capacity,
        row=share * ranks,
        pair=draw(st.sampled_from([1e-3, 1.0, 100.0])),
        heads=draw(st.sampled_from([1, 2, 8])),
    )
    return lengths, ranks, cost


@pytest.mark.parametrize("scheme", SCHEMES)
@given(batches())
@settings(deadline=None, max_examples=25)
def test_laws(scheme, batch):
    lengths, ranks, cost = batch
    placement = place(scheme, lengths, ranks, cost)
    assert broken(placement, np.array(lengths), cost.capacity) is None
    again = place(scheme, np.array(lengths, np.int32), ranks, cost)
    assert all(np.array_equal(a, b) for a, b in zip(placement.homes, again.homes, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(placement.attention, again.attention, strict=True))
    found = measure(placement, cost)
    assert min(found.attention, found.linear, found.both) >= 1 - 1e-9 and 0 <= found.padding < 1
    assert found.seconds >= found.both * found.ideal - 1e-9
    assert (found.bytes == 0) <= (found.bytes_most == 0) and (ranks > 1 or found.bytes == 0)
    np.testing.assert_allclose(found.ideal * ranks, cost.work(np.array(lengths)).sum())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_pair_is_computed_once(scheme):
    """By counting every pair, not by the rule that runs tile a document."""
    lengths, cost = [13, 1, 40, 7, 7, 22], dataclasses.replace(COST, capacity=16, row=64)
    counts = computed(place(scheme, lengths, 4, cost), lengths)
    for length, count in zip(lengths, counts, strict=True):
        np.testing.assert_array_equal(count, np.tri(length))


def placement(homes, attention, ranks=2):
    draft = Draft(ranks)
    for run in homes:
        draft.home(*run, 0)
    for run in attention:
        draft.attend(*run)
    return draft.done(1)


WHOLE = [(0, 0, 6, 0), (1, 0, 4, 1)]
KEPT = [(0, 0, 6, 0, 0), (1, 0, 4, 1, 0)]


@pytest.mark.parametrize(
    "homes, attention, words",
    [
        (WHOLE, KEPT, None),
        (WHOLE, [(0, 0, 6, 0, 0, 2), (0, 0, 6, 1, 0, 2), KEPT[1]], None),
        ([WHOLE[0]], KEPT, "no place"),
        ([*WHOLE, (1, 3, 4, 0)], KEPT, "several"),
        (WHOLE, [KEPT[0]], "never"),
        (WHOLE, [*KEPT, (0, 2, 3, 1, 0)], "several times"),
        (WHOLE, [*KEPT, KEPT[1]], "several times"),
        (WHOLE, [(0, 0, 6, 0, 0, 2), KEPT[1]], "never"),
        (WHOLE, [(0, 0, 6, 0, 0, 2), (0, 0, 6, 0, 0, 2), KEPT[1]], "twice"),
        ([*WHOLE, (PADDING, 0, 3, 1)], KEPT, "7 tokens, and has room for 6"),
        ([WHOLE[0], (1, 0, 4, 2)], KEPT, "not there"),
    ],
)
def test_broken_laws_are_seen(homes, attention, words):
    said = broken(placement(homes, attention), np.array([6, 4]), 6)
    assert said is None if words is None else words in said


def test_a_document_in_two_steps_is_seen():
    found = placement(WHOLE, KEPT)
    later = dataclasses.replace(found, steps=2, attention=Runs(*found.attention[:4], np.array([0, 1]), np.ones(2, int)))
    assert broken(later, np.array([6, 4]), 6) == "a document is in several steps"


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: place("flexps", [1], 1, COST), "Did you mean 'flexsp'?"),
        (lambda: place("wlb", [], 1, COST), "[512, 64] works"),
        (lambda: place("wlb", [3, 0], 1, COST), "from 1 on"),
        (lambda: place("wlb", [3], 0, COST), "ranks=0"),
        (lambda: place("wlb", [600], 2, COST), "capacity=64 tokens a rank: a document of 600 tokens"),
        (lambda: place("dispatch", [300], 8, COST), "row=256 tokens is less than a document of 300"),
        (lambda: place("dispatch", [30], 7, dataclasses.replace(COST, capacity=40)), "do not divide evenly"),
        (lambda: place("dispatch_rows", [30], 3, COST), "do not divide evenly"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_room_is_free_of_jax():
    code = "import longctx.placing, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_rate_of_a_group_is_that_of_the_block_it_fills():
    assert COST.rate(2) == 20.0 and COST.rate(3) == COST.rate(64) == 5.0
