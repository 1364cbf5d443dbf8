"""What the pictures of context parallelism show; that they can be drawn, the notebooks' tests say."""

import numpy as np
import pytest

from experiments.bench.balance import laid_out
from experiments.meter.lengths import row
from experiments.pictures import placement
from longctx import balance

LENGTHS, SHARDS, BLOCK = [40, 8, 16], 4, 4


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped(4)", "per_document", "balanced(4)"])
def test_hops_are_of_the_blocks_with_pairs_that_see_each_other(layout):
    laid, _ = laid_out(row(LENGTHS), layout, SHARDS)
    positions, segments = laid["positions"][0], laid["segments"][0]
    seen = (segments[:, None] == segments) & (positions[:, None] >= positions)
    blocks = len(positions) // BLOCK
    any_seen = seen.reshape(blocks, BLOCK, blocks, BLOCK).any((1, 3))
    got = placement.hops(layout, LENGTHS, SHARDS, BLOCK)
    # ranges of positions and segments may leave a block that no pair of them needs
    assert np.isfinite(got)[any_seen].all()
    shard = np.arange(blocks) * SHARDS // blocks
    for q, k in np.argwhere(np.isfinite(got)):
        assert (shard[k] + got[q, k]) % SHARDS == shard[q]


def test_hops_of_one_document():
    shard = np.arange(16) // 4
    expected = np.where(np.tri(16, dtype=bool), shard[:, None] - shard, np.nan)
    np.testing.assert_array_equal(placement.hops("contiguous", [64], 4, 4), expected)


@pytest.mark.parametrize("layout", ["zigzag", "balanced(4)"])
def test_turns_end_when_the_meter_says(layout):
    begin, work = placement.turns(layout, LENGTHS, SHARDS)
    laid, _ = laid_out(row(LENGTHS), layout, SHARDS)
    measured = balance.measure(**laid, shards=SHARDS, block=BLOCK)
    assert begin[0] == 0 and work.sum() == pytest.approx(SHARDS)
    assert begin[-1] + work[-1].max() == pytest.approx(measured.lockstep)
    assert work.sum(axis=0).max() == pytest.approx(measured.work)


def test_what_a_ring_and_ulysses_send():
    """Keys and values C - 1 times, in the backward their gradients too; Ulysses q, k, v, out and theirs once."""
    tokens, devices, width = 1 << 16, 8, 2 * 128
    array = tokens // devices * width  # bytes of one head
    where, lse = 2 * 4 * tokens // devices, 32 * 4 * tokens // devices
    ring = 7 * ((2 * 8 * array + where) * 2 + 2 * 8 * array)
    assert placement.sent("ring", devices, tokens, "llama3_8b") == ring
    ulysses = 7 / 8 * (2 * (2 * 32 + 2 * 8) * array + 3 * lse) + 7 * where
    assert placement.sent("ulysses", devices, tokens, "llama3_8b") == ulysses
    assert placement.sent("usp", devices, tokens, "llama3_8b") == ulysses


def test_a_document_that_no_other_shard_needs_is_not_sent(monkeypatch):
    of_lengths = lambda *lengths: monkeypatch.setattr(placement, "documents", lambda *_, **__: list(lengths))
    of_lengths(1024, 1024)
    assert placement.sent_by_need("web", 2, 2048, "llama3_8b") == 0
    of_lengths(2048)
    whole = placement.sent("dispatch", 2, 2048, "llama3_8b")
    # the first half of a document is needed by the second, of two devices with an early and a late piece each
    assert 0 < placement.sent_by_need("web", 2, 2048, "llama3_8b") <= whole
