"""The rotation itself: pairings and partial heads against transformers and complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longctx import meshes
from longctx.config import MeshConfig, RopeConfig
from longctx.errors import UserError
from longctx.positions import api, rope
from tests.helpers import ROOT, assert_close, relative_error, tolerance

GOLDEN = np.load(ROOT / "tests/golden" / "positions.npz")


def rotated(x, positions, config):
    table = rope.tables(jnp.asarray(positions, jnp.int32), config, x.shape[-1], x.shape[1])
    return rope.rotate(jnp.asarray(x, jnp.float32), table)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("pairing", api.PAIRINGS)
def test_rotated_q_and_k_are_those_of_transformers(pairing):
    for name in ("q", "k"):
        x = GOLDEN[f"apply/{name}"].swapaxes(1, 2)  # BTNH
        got = rotated(x, GOLDEN["apply/positions"][None], RopeConfig(pairing=pairing))
        assert_close(got, GOLDEN[f"apply/{pairing}/{name}"].swapaxes(1, 2), "float32", len(GOLDEN["apply/positions"]))


@pytest.mark.parametrize(
    "config",
    [
        RopeConfig(),
        RopeConfig(rotary_fraction=0.5),
        RopeConfig(rotary_fraction=0.25, pairing="interleaved"),
        RopeConfig(scaling="proportional", rotary_fraction=0.5),
        RopeConfig(scaling="yarn", factor=4.0, original_length=64),
    ],
)
def test_rotation_is_the_complex_product(config):
    x, positions = draw(1, 2, 5, 3, 16), np.array([[0, 1, 2, 50, 10**7], [3, 3, 3, 3, 2**30]])
    inv_freq, factor = api.frequencies(config, 16, 5)
    d = 2 * len(inv_freq)
    first, second = {"half": (slice(d // 2), slice(d // 2, d)), "interleaved": (slice(0, d, 2), slice(1, d, 2))}[
        config.pairing
    ]
    turned = (x[..., first] + 1j * x[..., second]) * factor * np.exp(1j * positions[..., None, None] * inv_freq)
    want = x.copy()
    want[..., first], want[..., second] = turned.real, turned.imag
    assert_close(rotated(x, positions, config), want, "float32", 4)


def test_interleaved_is_half_with_the_dimensions_in_another_order():
    x, positions, order = draw(2, 1, 7, 2, 8), np.arange(7)[None] * 1000, [0, 2, 4, 6, 1, 3, 5, 7]
    interleaved = rotated(x, positions, RopeConfig(pairing="interleaved"))
    np.testing.assert_array_equal(interleaved[..., order], rotated(x[..., order], positions, RopeConfig()))


def test_nope_and_dtypes():
    x = jnp.asarray(draw(3, 1, 4, 2, 8), jnp.bfloat16)
    positions = jnp.arange(4, dtype=jnp.int32)[None]
    rotate = lambda config: rope.rotate(x, rope.tables(positions, config, 8, 4))
    assert rotate(RopeConfig()).dtype == jnp.bfloat16
    np.testing.assert_array_equal(rotate(RopeConfig(rotary_fraction=0.0)), x)


@pytest.mark.parametrize(
    "config", [RopeConfig(), RopeConfig(rotary_fraction=0.0), RopeConfig(rotary_fraction=0.5, pairing="interleaved")]
)
def test_cut_over_every_axis(config):
    x, positions = draw(7, 4, 8, 2, 16).astype(np.float32), np.arange(32, dtype=np.int32).reshape(4, 8) * 10**6
    mesh = meshes.make(MeshConfig(data=2, context=2, tensor=2))
    turn = jax.jit(lambda x, p: rope.rotate(x, rope.tables(p, config, 16, 8)))
    with jax.set_mesh(mesh):
        got = turn(
            jax.device_put(x, jax.sharding.NamedSharding(mesh, meshes.HEADS)),
            meshes.put_batch({"p": positions}, mesh)["p"],
        )
    assert_close(got, rotated(x, positions, config), "float32", 1)
    assert got.sharding.spec == meshes.HEADS


@pytest.mark.parametrize("start", [100, 10**7, 2**30])
def test_scores_depend_on_distance_alone(start):
    q, k = (draw(seed, 1, 1, 1, 32) for seed in (4, 5))
    at = lambda x, position: np.asarray(rotated(x, [[position]], RopeConfig()), np.float64)
    score = lambda m, n: np.sum(at(q, m) * at(k, n))
    assert abs(score(start + 7, start + 3) - score(7, 3)) <= tolerance("float32", 32) * np.abs(q * k).sum()
    assert abs(score(7, 3) - score(7, 4)) > 1000 * tolerance("float32", 32)


def test_a_table_crosses_jit_and_knows_its_pairing():
    positions = jnp.arange(6, dtype=jnp.int32)[None]
    table = jax.jit(lambda p: rope.tables(p, RopeConfig(pairing="interleaved"), 8, 6))(positions)
    x = jnp.asarray(draw(6, 1, 6, 1, 8), jnp.float32)
    assert relative_error(jax.jit(rope.rotate)(x, table), rotated(x, positions, RopeConfig())) > 0.1


POSITIONS = jnp.arange(6, dtype=jnp.int32)[None]
turned = lambda x: rope.rotate(x, rope.tables(POSITIONS, RopeConfig(), 8, 6))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rope.tables(POSITIONS * 0.5, RopeConfig(), 8, 6), "positions float32.* must be integers"),
        (lambda: rope.tables(POSITIONS > 0, RopeConfig(), 8, 6), "positions bool"),
        (lambda: rope.tables(POSITIONS[0], RopeConfig(), 8, 6), r"positions int32\[6\] must have the axes \[B, T\]"),
        (lambda: rope.tables(POSITIONS - 3, RopeConfig(), 8, 6), "from -3 to 2, and they must be from 0"),
        (lambda: rope.tables(POSITIONS, RopeConfig(), 8, 6, divisor=0), "divisor=0"),
        (lambda: rope.tables(POSITIONS, RopeConfig(scaling="dynamic", original_length=4), 8, 0), "length=0 must be"),
        (lambda: turned(jnp.ones((1, 6, 2, 4))), "do not go together"),
        (lambda: turned(jnp.ones((1, 5, 2, 8))), r"x float32\[1, 5, 2, 8\]"),
        (lambda: turned(jnp.ones((1, 6, 2, 8), int)), "x int32"),
    ],
)
def test_what_cannot_be_rotated(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_each_row_of_a_length_of_its_own():
    config = RopeConfig(scaling="dynamic", factor=2.0, original_length=4)
    both, lengths = rope.tables(jnp.tile(POSITIONS, (2, 1)), config, 8, (6, 64)), (6, 64)
    for row, length in enumerate(lengths):
        alone = rope.tables(POSITIONS, config, 8, length)
        np.testing.assert_array_equal(both.cos[row], alone.cos[0])
        np.testing.assert_array_equal(both.sin[row], alone.sin[0])
    assert (both.cos[0] != both.cos[1]).any()
