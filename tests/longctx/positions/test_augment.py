"""Augmented positions: what holds for every draw, what the draws cover, and the same draws on every mesh and layout."""

import functools

import jax
import numpy as np
import pytest

from longctx import layouts, meshes
from longctx.config import MeshConfig
from longctx.positions import augment
from tests.helpers import packed, slow

T, TARGET = 32, 160  # target = 5 T
REAL = [name for name in augment.AUGMENTATIONS if name != "none"]


def batch(seed=0, rows=4):
    return {name: np.asarray(x) for name, x in packed(seed, rows, T, mean=14)._asdict().items()}


@functools.cache
def step(name, config):
    return jax.jit(lambda placed, seed: augment.augmented(placed, jax.random.key(seed), name, TARGET))


def run(name, data, seed, config=MeshConfig(), layout="contiguous"):  # noqa: B008
    """(positions, stretch) in natural order; stretch is 1 where there is none."""
    mesh = meshes.make(config)
    with jax.set_mesh(mesh):
        placed = meshes.put_batch(layouts.lay_out(data, layout, config.context), mesh)
        result = step(name, config)(placed, seed)
    back = layouts.inverse(layouts.permutation(layout, data["segments"], config.context))
    positions = layouts.permute(np.asarray(result["positions"]), back)
    return positions, np.asarray(result.get("stretch", np.ones(len(positions))))


def documents(data, positions):
    """The new positions of each document of each row, and its row."""
    for row in range(len(positions)):
        for segment in range(1, data["segments"][row].max() + 1):
            yield row, positions[row, data["segments"][row] == segment]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("seed", range(4))
def test_positions_stay_in_order_below_the_target_and_padding_stays(name, seed):
    data = batch(seed)
    positions, stretch = run(name, data, seed)
    np.testing.assert_array_equal(positions[data["segments"] == 0], 0)
    for row, places in documents(data, positions):
        assert places[0] == 0 and (np.diff(places) > 0).all()
        assert places[-1] < {"pose": TARGET, "e2llm": stretch[row] * T, "clex": stretch[row] * len(places) + 1}[name]


@pytest.mark.parametrize("name", REAL)
def test_documents_rows_and_steps_draw_for_themselves(name):
    """Two documents of one size in each of two equal rows, and two steps: eight different results."""
    halves = np.tile(np.arange(T // 2), 2)
    one = {
        "positions": halves[None].repeat(2, 0).astype(np.int32),
        "segments": (1 + np.arange(T) // (T // 2))[None].repeat(2, 0).astype(np.int32),
    }
    results = {tuple(places) for seed in (1, 5) for _, places in documents(one, run(name, one, seed)[0])}
    assert len(results) == 8


@pytest.mark.parametrize(
    "config, layout",
    [
        (MeshConfig(fsdp=2, context=2), "per_document(4)"),
        *slow((MeshConfig(context=4), "zigzag"), (MeshConfig(data=2, context=2), "striped")),
    ],
)
@pytest.mark.parametrize("name", REAL)
def test_the_same_on_every_mesh_in_every_layout(name, config, layout):
    data = batch(3)
    for got, want in zip(run(name, data, 7, config, layout), run(name, data, 7), strict=True):
        np.testing.assert_array_equal(got, want)


def test_none_changes_nothing():
    data = batch()
    np.testing.assert_array_equal(run("none", data, 0)[0], data["positions"])


def whole_rows(name, seed):
    """One document in each of 256 rows."""
    data = {"positions": np.tile(np.arange(T, dtype=np.int32), (256, 1)), "segments": np.ones((256, T), np.int32)}
    return run(name, data, seed)


def test_pose_covers_every_distance_up_to_the_target():
    positions, _ = whole_rows("pose", 0)
    distance = positions[:, :, None] - positions[:, None]
    assert set(range(TARGET)) <= set(distance.ravel().tolist())
    jumps = np.diff(positions, axis=1) - 1
    assert ((jumps > 0).sum(1) <= 1).all()  # two parts, in one piece each
    cut = jumps.argmax(1)[jumps.max(1) > 0] + 1
    assert cut.min() == 1 and cut.max() == T // 2 and jumps.max() == TARGET - T and jumps.min() == 0


def test_e2llm_covers_every_stretch_and_offset_and_keeps_the_first_tokens():
    positions, stretch = whole_rows("e2llm", 1)
    assert set(stretch) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(positions[:, : augment.SINKS], np.arange(augment.SINKS)[None].repeat(256, 0))
    assert (np.diff(positions[:, augment.SINKS :], axis=1) == 1).all()
    assert 0.9 * T < (positions[:, -1] / stretch).max() < T  # no angle that T tokens do not have


def test_clex_covers_the_row_and_ends_where_it_should():
    positions, stretch = whole_rows("clex", 2)
    assert set(stretch) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(positions[:, -1], stretch * T - 1)
    np.testing.assert_array_equal(positions[stretch == 1], np.arange(T)[None].repeat((stretch == 1).sum(), 0))
    middle = positions[stretch == 5, 1:-1]
    assert set(range(1, 5 * T - 1)) == set(middle.ravel().tolist())
