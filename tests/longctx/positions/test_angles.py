"""Angles against long double, at any position, for every frequency; under jit, scan, vmap and shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longctx import meshes
from longctx.config import MeshConfig
from longctx.positions.angles import angles, constant_turns, learned_turns
from tests.helpers import tolerance

# cos and sin of an angle that is rounded to float32 at most twice
EXACT = tolerance("float32", 1)
FREQUENCIES = np.concatenate([[10.0, 6.5, 1.0], *(base ** (-np.arange(0, 128, 2) / 128) for base in (1e4, 5e5, 1e8))])


def places(end):
    """Positions up to `end`, int32."""
    near = np.arange(max(end - 500, 0), end + 1)
    return np.concatenate([near, np.random.default_rng(0).integers(0, end, 500, endpoint=True)]).astype(np.int32)


def assert_exact(angle, positions, frequencies):
    want = positions.astype(np.longdouble)[:, None] * frequencies.astype(np.longdouble)
    assert angle.dtype == jnp.float32
    got = np.asarray(angle, np.float64)
    assert np.abs(np.cos(got) - np.cos(want)).max() <= EXACT and np.abs(np.sin(got) - np.sin(want)).max() <= EXACT
    assert np.abs(got).max() <= np.pi * (1 + EXACT)


def test_that_is_what_is_promised():
    assert EXACT <= 1e-6


@pytest.mark.parametrize("end", [1, 1000, 10**6, 10**7, 2**30, 2**31 - 1])
def test_constants_are_exact_at_any_position(end):
    positions = places(end)
    angle = jax.jit(lambda p: angles(p[:, None], constant_turns(FREQUENCIES[None])))(positions)
    assert_exact(angle, positions, FREQUENCIES)


@pytest.mark.parametrize("end", [1000, 10**7, 2**30])
def test_cos_and_sin_are_exact_on_the_device(end):
    positions = places(end)
    angle = lambda p: angles(p[:, None], constant_turns(FREQUENCIES[None]))
    cos, sin = jax.jit(lambda p: (jnp.cos(angle(p)), jnp.sin(angle(p))))(positions)
    want = positions.astype(np.longdouble)[:, None] * FREQUENCIES.astype(np.longdouble)
    assert np.abs(np.asarray(cos, np.float64) - np.cos(want).astype(np.float64)).max() <= EXACT
    assert np.abs(np.asarray(sin, np.float64) - np.sin(want).astype(np.float64)).max() <= EXACT


def test_that_a_float32_product_is_not():
    product = np.float32(10**7 - 1) * FREQUENCIES.astype(np.float32)
    assert np.abs(np.cos(product) - np.cos((10**7 - 1) * FREQUENCIES)).max() > 0.1


@pytest.mark.parametrize("end", [1000, 10**7, 2**30])
def test_learned_ones_are_exact_once_they_are_float32(end):
    positions, learned = places(end), FREQUENCIES[2:].astype(np.float32)
    per_turn = (learned * np.float32(0.5 / np.pi)).astype(np.longdouble) * 2 * np.longdouble("3.14159265358979323846")
    turns = lambda f: jax.tree.map(lambda word: word[None], learned_turns(f))
    assert_exact(jax.jit(lambda p, f: angles(p[:, None], turns(f)))(positions, learned), positions, per_turn)


def test_inside_scan_and_shard_map():
    positions = np.stack([places(10**7)[:512], places(2**30)[:512]])
    mesh = meshes.make(MeshConfig(data=2, context=4))
    per_token = constant_turns(FREQUENCIES[None, None])
    whole = angles(jnp.asarray(positions)[..., None], per_token)
    with jax.set_mesh(mesh):
        placed = meshes.put_batch({"p": positions}, mesh)["p"]
        cut = jax.jit(
            jax.shard_map(lambda p: angles(p[..., None], per_token), in_specs=meshes.TOKENS, out_specs=meshes.HIDDEN)
        )(placed)
        typed = jax.jit(lambda p: angles(p[..., None], per_token))(placed)
    scanned = jax.lax.scan(lambda c, p: (c, angles(p[:, None], constant_turns(FREQUENCIES[None]))), 0, positions)[1]
    for got in (cut, typed, scanned):
        np.testing.assert_array_equal(got, whole)
