"""CLEX's frequencies against the published equation integrated in small steps, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longctx.config import RopeConfig
from longctx.positions import api, clex, rope, scalings
from tests.helpers import assert_close, relative_error, tolerance

HEAD, CONFIG = 8, RopeConfig(theta=100.0, scaling="clex", factor=5.0, original_length=64)
PAIRS = HEAD // 2
SCALING = scalings.of(CONFIG), api.rotation(CONFIG, HEAD)


def weights(scale, dtype=np.float32):
    rng = np.random.default_rng(0)
    return tuple((scale * rng.standard_normal(shape)).astype(dtype) for shape in ((PAIRS, HEAD), (HEAD, PAIRS)))


def published(up, down, last, steps=500):
    """exp z at t = last, with all of z integrated, not only what is learned; float64, 500 steps for each unit of t."""
    index = 2 * np.arange(PAIRS)
    silu = lambda x: x / (1 + np.exp(-x))

    def slope(t, z):
        alpha = 2 * t - 1
        theta = (CONFIG.theta * alpha ** (HEAD / (HEAD - 2))) ** (-index / HEAD)
        change = -2 * index / (HEAD - 2) / (CONFIG.theta ** (index / HEAD) * alpha ** (index / (HEAD - 2) + 1))
        return silu((z + np.log(theta)) @ up) @ down + change / theta

    z, h = -index / HEAD * np.log(CONFIG.theta), 1 / steps
    for i in range((last - 1) * steps):
        t = 1 + i * h
        a = slope(t, z)
        b = slope(t + h / 2, z + h / 2 * a)
        c = slope(t + h / 2, z + h / 2 * b)
        z = z + h / 6 * (a + 2 * b + 2 * c + slope(t + h, z + h * c))
    return np.exp(z)


def test_without_the_learned_part_it_is_the_ntk_aware_path():
    up, down = weights(1.0)
    got = clex.frequencies(up, np.zeros_like(down), *SCALING)
    want = [
        api.frequencies(RopeConfig(theta=100.0, scaling="ntk", factor=2.0 * t - 1), HEAD, 1)[0] for t in range(1, 6)
    ]
    np.testing.assert_array_equal(got, np.float32(want))
    same = [api.frequencies(CONFIG, HEAD, 64 * t - 1)[0] for t in range(1, 6)]
    np.testing.assert_array_equal(same, want)
    np.testing.assert_array_equal(api.frequencies(CONFIG, HEAD, 9999)[0], want[-1])


@pytest.mark.parametrize("scale", [0.1, 0.4])
def test_the_learned_part_is_that_of_the_published_equation(scale):
    up, down = weights(scale)
    got = np.asarray(jax.jit(lambda *w: clex.frequencies(*w, *SCALING))(up, down))
    assert relative_error(got[0], published(up, down, 1)) <= tolerance("float32", 1)
    for t in (2, 5):
        want = published(up, down, t)
        assert relative_error(got[t - 1] / want, np.ones(PAIRS)) <= tolerance("float32", 4 * clex.STEPS * t)
        assert relative_error(want, api.frequencies(CONFIG, HEAD, 64 * t)[0]) > 0.01  # the weights did something


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        up, down = (jnp.asarray(w) for w in weights(0.4, np.float64))
        weigh = np.random.default_rng(1).standard_normal((5, PAIRS))
        f = lambda up, down: (weigh * jnp.log(clex.frequencies(up, down, *SCALING))).sum()
        grads = jax.grad(f, (0, 1))(up, down)
        h = np.finfo(np.float64).eps ** (1 / 3)
        f = jax.jit(f)
        for at in [(0, 0), (1, 3), (3, 2)]:
            slopes = (
                (f(up.at[at].add(h), down) - f(up.at[at].add(-h), down)) / (2 * h),
                (f(up, down.at[at].add(h)) - f(up, down.at[at].add(-h))) / (2 * h),
            )
            for slope, grad in zip(slopes, grads, strict=True):
                assert abs(slope - grad[at]) <= 100 * h**2 * max(abs(float(slope)), 1) and slope != 0


def test_a_learned_table_has_its_gradient_and_the_exact_angles():
    positions = jnp.asarray([[0, 3, 1000, 10**6]], jnp.int32)
    learned = jnp.asarray([[1.0, 0.25, 2.0**-9]], jnp.float32)
    table, pull = jax.vjp(lambda f: rope.learned_table(positions, f, "half"), learned)
    angle = np.asarray(positions)[..., None].astype(np.float64) * np.asarray(learned, np.float64)[:, None]
    # 1 / (2 pi) times the frequency is rounded once
    assert np.abs(table.cos - np.cos(angle)).max() <= tolerance("float32", 1) * angle.max()
    ones = np.ones_like(table.cos)
    (got,) = pull(rope.Table(jnp.asarray(ones), jnp.asarray(2 * ones), "half"))
    places = np.asarray(positions)[..., None].astype(np.float64)
    want = (places * (2 * np.asarray(table.cos, np.float64) - np.asarray(table.sin, np.float64))).sum(1)
    assert_close(got, want, "float32", 4)
