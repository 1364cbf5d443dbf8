"""`ahead` against a loop over tokens, under every layout; the loss of unevenly weighted shards against one device."""

import jax
import numpy as np
import pytest

from longctx import layouts, loss, meshes
from longctx.config import MeshConfig
from longctx.data import rows
from longctx.data.packing.best_fit import pack
from longctx.data.tokenizers import ByteTokenizer
from longctx.errors import UserError
from longctx.shift import ahead
from tests.helpers import assert_close, packed


def expected(x, positions, segments, offset, fill):
    found = np.full_like(x, fill)
    for row in range(len(x)):
        where = {(s, p): value for s, p, value in zip(segments[row], positions[row], x[row], strict=True) if s}
        found[row] = [where.get((s, p + offset), fill) for s, p in zip(segments[row], positions[row], strict=True)]
    return found


def batch(T=48):
    """Packed rows with padding; in one document, every third position is missing."""
    positions, segments = (np.array(y) for y in packed(3, 2, T, mean=9))
    positions[segments == 2] += positions[segments == 2] // 2
    return {
        "x": np.random.default_rng(0).integers(1, 99, (2, T)).astype(np.int32),
        "positions": positions,
        "segments": segments,
    }


def test_tokens_ahead_without_a_mesh():
    data = {
        name: np.array([row], np.int32)
        for name, row in {
            "x": [1, 2, 3, 4, 5, 9, 9],
            "positions": [0, 1, 2, 0, 1, 0, 1],
            "segments": [1, 1, 1, 2, 2, 0, 0],
        }.items()
    }
    assert ahead(**data).tolist() == [[2, 3, 0, 5, 0, 0, 0]]
    assert ahead(**data, offset=2, fill=-1).tolist() == [[3, -1, -1, -1, -1, -1, -1]]
    with pytest.raises(ValueError, match="offset=0"):
        ahead(**data, offset=0)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(positions=np.ones((2, 9), int)), r"x int32\[2, 48\] and positions int64\[2, 9\]: both must be"),
        (dict(segments=np.ones((2, 48))), "segments float64.* integers"),
        (dict(segments=np.ones((2, 48), bool)), "bool"),
        (dict(segments=-np.ones((2, 48), int)), "from -1 to -1"),
        (dict(offset=-1), "offset=-1"),
        (dict(offset=1.5), "offset=1.5 must be a whole"),
        (dict(fill=float("nan")), "fill=nan"),
        (dict(fill=0.5), "fill=0.5 must be a whole number from -2147483648"),
        (dict(x=np.ones((2, 48), np.uint8), fill=-1), "fill=-1 .* from 0 to 255"),
    ],
)
def test_what_has_nothing_ahead(change, message):
    with pytest.raises(UserError, match=message):
        ahead(**batch() | change)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(targets=np.ones((2, 9), int)), r"x float32\[2, 6, 4\] and targets int64\[2, 9\]: there must be a target"),
        (dict(targets=np.ones((2, 6))), "targets float64"),
        (dict(head=np.ones((5, 8), np.float32)), "one dtype and one D"),
        (dict(weights=np.ones((2, 1))), r"targets int64\[2, 6\] and weights float64\[2, 1\] must be of one shape"),
        (dict(weights=np.ones((2, 6)), tiles=0), "tiles=0"),
    ],
)
def test_losses_of_what_does_not_go_together(change, message):
    call = dict(x=np.ones((2, 6, 4), np.float32), head=np.ones((4, 8), np.float32), targets=np.ones((2, 6), int))
    with pytest.raises(UserError, match=message):
        loss.token_loss(**call | change)


def test_a_mean_over_tokens_broadcasts_nothing():
    with pytest.raises(UserError, match=r"nll float64\[2, 6\] and weights float64\[2, 1\]"):
        loss.mean_over_tokens(np.ones((2, 6)), np.ones((2, 1)))


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize(
    "mesh_config, layout",
    [
        (MeshConfig(data=2), "contiguous"),
        *((MeshConfig(context=shards), layout) for shards in (3, 4) for layout in (*layouts.LAYOUTS, "striped(4)")),
    ],
)
def test_tokens_ahead_under_every_layout(mesh_config, layout, jit):
    mesh, data = meshes.make(mesh_config), batch()
    moved = layouts.lay_out(data, layout, mesh_config.context)
    back = layouts.inverse(layouts.permutation(layout, data["segments"], mesh_config.context))
    for offset in (1, 2, 3):
        call = lambda placed, offset=offset: ahead(**placed, offset=offset, fill=-1)
        with jax.set_mesh(mesh):
            got = (jax.jit(call) if jit else call)(meshes.put_batch(moved, mesh))
        assert got.sharding.spec == meshes.TOKENS
        want = expected(**data, offset=offset, fill=-1)
        np.testing.assert_array_equal(layouts.permute(np.asarray(got), back), want)
        assert (want > 0).sum() > want.size // 3


def test_the_shift_on_the_mesh_is_that_of_the_pipeline():
    """Targets are the tokens ahead, but for the last of each document: there the pipeline knows its end marker."""
    tokenizer = ByteTokenizer()
    table = rows.table([(rows.framed(np.arange(n), tokenizer), None) for n in (30, 11, 3, 1, 17)], tokenizer)
    made = rows.PackedRows(table, pack(table.inputs, 40), ByteTokenizer().pad).gather(np.arange(2))
    got = np.asarray(ahead(made["tokens"], made["positions"], made["segments"], fill=-1))
    inside = got >= 0
    np.testing.assert_array_equal(got[inside], made["targets"][inside])
    assert set(made["targets"][~inside]) <= {ByteTokenizer().eos, ByteTokenizer().pad}


@pytest.mark.parametrize("mesh_config", [MeshConfig(context=4), MeshConfig(data=2, context=3)])
def test_a_mean_over_tokens_does_not_depend_on_how_shards_are_weighted(mesh_config):
    """The last shards hold mostly padding: a mean of the shards' means would be another number."""
    rng, mesh = np.random.default_rng(0), meshes.make(mesh_config)
    nll, weights = rng.random((2, 48), np.float32), (rng.random((2, 48)) > np.linspace(0, 1.2, 48)).astype(np.float32)
    nll += np.linspace(0, 3, 48, dtype=np.float32)
    with jax.set_mesh(mesh):
        got = jax.jit(loss.mean_over_tokens)(**meshes.put_batch({"nll": nll, "weights": weights}, mesh))
    assert_close(got, (nll * weights).sum() / weights.sum(), "float32", nll.size)
    cut = zip(np.split(nll, 4, axis=1), np.split(weights, 4, axis=1), strict=True)
    shards = [(n * w).sum() / max(w.sum(), 1) for n, w in cut]
    assert abs(np.mean(shards) - float(got)) > 0.1
    assert float(loss.mean_over_tokens(nll, 0 * weights)) == 0
