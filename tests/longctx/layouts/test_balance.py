"""The meters of layouts, against counting every pair of tokens and of blocks."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx import balance, layouts
from longctx.config import LayerConfig, ModelConfig
from longctx.positions.view import reaches
from pallas_kernels import masks
from tests.helpers import assert_close
from tests.longctx.layouts.test_layouts import packed_rows, rows

NAMES = ["contiguous", "zigzag", "striped", "striped(2)", "per_document(2)", "balanced", "balanced(2)"]
C, BLOCK = 4, 2


def mask_of(reach):
    return masks.Causal() & masks.Segments() & (masks.Full() if reach is None else masks.Window(reach))


@functools.partial(jax.jit, static_argnums=0)
def relations(mask, tokens):
    """What blocks of tokens are to one another."""
    ranges = masks.block_ranges(tokens, BLOCK)
    return masks.relation(mask, ranges, ranges)


def laid_out(data, name):
    positions, segments = rows(*data.draw(packed_rows(240)))  # of few shapes: jax compiles each
    return layouts.lay_out({"positions": positions, "segments": segments}, name, C)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from([None, 1, 3, 20]), st.data())
def test_work_is_the_pairs_that_see_each_other(name, reach, data):
    moved = laid_out(data, name)
    tokens = masks.TokenInfo(moved["positions"], moved["segments"])
    seen = np.asarray(masks.visible(mask_of(reach), tokens, tokens))
    n = seen.shape[1] // C
    np.testing.assert_array_equal(
        balance.work(**moved, shards=C, reach=reach), seen.reshape(2, C, n, C, n).sum((0, 2, 4))
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from([None, 1, 3, 20]), st.data())
def test_tiles_are_the_blocks_that_a_kernel_does_not_skip(name, reach, data):
    moved = laid_out(data, name)
    tokens = masks.TokenInfo(moved["positions"], moved["segments"])
    touched = np.asarray(relations(mask_of(reach), tokens)) != masks.EMPTY
    by_shard = touched.reshape(2, C, -1, C, touched.shape[1] // C)
    computed, needed = balance.tiles(**moved, shards=C, reach=reach, block=BLOCK)
    np.testing.assert_array_equal(computed, by_shard.sum((0, 2, 4)))
    np.testing.assert_array_equal(needed, by_shard.any(2).sum((0, 3)))


def test_many_pieces_are_taken_some_at_a_time(monkeypatch):
    positions, segments = rows([50, 3, 40, 3], [96])
    moved = layouts.lay_out({"positions": positions, "segments": segments}, "striped", C)
    whole = balance.work(**moved, shards=C, reach=7)
    monkeypatch.setattr(balance, "_NUMBERS", C * 45)  # fewer than the pieces of the longest document
    np.testing.assert_array_equal(balance.work(**moved, shards=C, reach=7), whole)


@pytest.mark.parametrize(
    "name, work, lockstep, received",
    [("contiguous", 2 - 1 / C, 2 - 1 / C, 0.5), ("zigzag", 1, 1, 0.75), ("balanced(2)", 1, 1, 0.75)],
)
def test_one_document_in_closed_form(name, work, lockstep, received):
    """Of 2C pieces the queries of zigzag need those up to their later one."""
    positions, segments = rows([1 << 14])
    moved = layouts.lay_out({"positions": positions, "segments": segments}, name, C)
    found = balance.measure(**moved, shards=C, block=64)
    n = 1 << 12
    closed = (work, lockstep, received, 1.0, 1.0, 0.0)
    got = (found.work, found.lockstep, found.received, found.received_most, found.tokens, found.padding)
    assert_close(got, closed, "bfloat16", n)  # contiguous: less by a few of n tokens
    assert found.waste == pytest.approx((1 + 64 / (1 << 14)) / (1 + 1 / (1 << 14)))


def test_padding_and_tokens():
    positions, segments = rows([20, -12])
    found = balance.measure(positions, segments, shards=C, block=2)
    assert found.padding == 12 / 32 and found.tokens == 8 / 5


def test_each_kind_of_layers_waits_for_its_own_busiest_shard():
    positions, segments = rows([40, 10, 5, 41])
    moved = layouts.lay_out({"positions": positions, "segments": segments}, "contiguous", C)
    kinds = [((5, 3),), ((None, 1),)]
    alone = [balance.measure(**moved, shards=C, reaches=kind, block=BLOCK) for kind in kinds]
    together = balance.measure(**moved, shards=C, reaches=kinds[0] + kinds[1], block=BLOCK)
    work = np.array([layers * balance.work(**moved, shards=C, reach=reach).sum() for ((reach, layers),) in kinds])
    shares = work / work.sum()
    assert together.work == pytest.approx(shares @ [one.work for one in alone])
    assert together.lockstep == pytest.approx(shares @ [one.lockstep for one in alone])
    assert together.received == pytest.approx(np.array([3, 1]) / 4 @ [one.received for one in alone])
    same = balance.measure(**moved, shards=C, reaches=((5, 2), (5, 1)), block=BLOCK)
    assert dataclasses.astuple(same) == pytest.approx(dataclasses.astuple(alone[0]))


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ((LayerConfig(),), ((None, 7),)),
        ((LayerConfig(mask="causal & window(8)"),) * 2 + (LayerConfig(),), ((8, 5), (None, 2))),
        ((LayerConfig(mask="causal & (window(8) | sinks(2))"), LayerConfig(position="lm_infinite(2, 8)")), ((10, 7),)),
        ((LayerConfig(position="self_extend(2, 8)"), LayerConfig(mask="full")), ((None, 7),)),
    ],
)
def test_what_the_layers_of_a_model_see(pattern, expected):
    assert reaches(ModelConfig(layers=7, pattern=pattern)) == expected
