import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from longctx.config import RopeConfig
from longctx.errors import UserError
from longctx.positions import api, rope

GOLDEN = json.loads((pathlib.Path(__file__).parents[2] / "golden" / "rope_frequencies.json").read_text())["cases"]


@pytest.mark.parametrize("name", GOLDEN)
def test_frequencies_are_those_of_transformers(name):
    case = GOLDEN[name]
    inv_freq, factor = api.frequencies(RopeConfig(**case["config"]), case["head_size"])
    np.testing.assert_allclose(inv_freq, case["inv_freq"], rtol=2e-6)
    assert factor == pytest.approx(case["factor"], rel=1e-12)


def test_ntk_interpolates_the_slowest_dimension_and_keeps_the_fastest():
    plain, scaled = (api.frequencies(RopeConfig(scaling=s, factor=8.0), 64)[0] for s in ("none", "ntk"))
    assert scaled[0] == plain[0] and scaled[-1] == pytest.approx(plain[-1] / 8)


def test_yarn_without_extension_is_plain():
    plain, same = (api.frequencies(RopeConfig(scaling=s, factor=1.0, original_length=256), 64)
                   for s in ("none", "yarn"))
    np.testing.assert_allclose(same[0], plain[0], rtol=1e-12)
    assert same[1] == 1.0


def test_scores_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 1, 32)), jnp.float32) for _ in range(2))
    score = lambda m, n: float(jnp.sum(rope.rotate(q, table(m)) * rope.rotate(k, table(n))))
    table = lambda m: rope.tables(jnp.array([[m]], jnp.int32), RopeConfig(), 32)
    assert score(7, 3) == pytest.approx(score(107, 103), abs=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_rotation_is_the_complex_product():
    rng = np.random.default_rng(1)
    x, positions = rng.standard_normal((2, 5, 3, 8)), np.array([[0, 1, 2, 50, 1000], [3, 3, 3, 3, 3]])
    inv_freq, _ = api.frequencies(RopeConfig(), 8)
    want = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * positions[..., None, None] * inv_freq)
    got = rope.rotate(jnp.asarray(x, jnp.float32), rope.tables(jnp.asarray(positions, jnp.int32), RopeConfig(), 8))
    np.testing.assert_allclose(got, np.concatenate([want.real, want.imag], -1), atol=2e-4)


@pytest.mark.parametrize("config, message", [
    (dict(scaling="yran"), "model.rope.scaling='yran' is not known. Did you mean 'yarn'"),
    (dict(scaling="yarn", factor=4.0), "model.rope.original_length=0 must be the trained length"),
    (dict(base=0.5), "model.rope.base=0.5 must be above 1"),
    (dict(factor=0.0), "model.rope.factor=0.0 must be positive"),
    (dict(scaling="llama3", original_length=8, low_freq_factor=4.0), "high_freq_factor=4.0 must exceed")])
def test_settings_that_cannot_work_are_named(config, message):
    with pytest.raises(UserError, match=message):
        api.frequencies(RopeConfig(**config), 64)
