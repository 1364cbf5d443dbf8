"""RoPE's frequencies: every setting against transformers (golden/make_positions.py), the rest against formulas."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st

from experiments.settings import former
from longctx.config import RopeConfig
from longctx.errors import UserError
from longctx.hf.rope import ALWAYS
from longctx.positions import api, scalings
from tests.helpers import ROOT

GOLDEN = np.load(ROOT / "tests/golden" / "positions.npz")
SETTINGS = former.renamed(json.loads(str(GOLDEN["settings"])))
SAME = 1e-12  # relative; both are float64


def frequencies(head_dim=64, length=1, **config):
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    return api.frequencies(RopeConfig(**config), head_dim, length)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_that_of_transformers(name):
    setting = dict(SETTINGS[name])
    for length in setting.pop("lengths"):
        inv_freq, factor = frequencies(**setting, length=length)
        np.testing.assert_allclose(inv_freq, GOLDEN[f"rope/{name}/{length}"], rtol=SAME)
        assert factor == pytest.approx(float(GOLDEN[f"rope/{name}/factor"]), rel=SAME)


def test_ntk_interpolates_the_slowest_dimension_and_keeps_the_fastest():
    plain, scaled = frequencies()[0], frequencies(scaling="ntk", factor=8.0)[0]
    assert scaled[0] == plain[0] and scaled[-1] == pytest.approx(plain[-1] / 8)


def test_dynamic_ntk_is_ntk_at_the_ratio_of_lengths():
    got = frequencies(scaling="dynamic", factor=2.0, original_length=100, length=250)
    np.testing.assert_allclose(got[0], frequencies(scaling="ntk", factor=2.0 * 250 / 100 - 1)[0], rtol=SAME)


@pytest.mark.parametrize("scaling", scalings.SCALINGS)
def test_which_numbers_a_scaling_reads(scaling):
    """Another value changes the frequencies of some length, or their factor, if and only if the class has the field."""
    start = dict(
        theta=1e4,
        scaling=scaling,
        factor=4.0,
        original_length=4096,
        mscale=0.8,
        mscale_all_dim=0.5,
        short_factors=(1.0,) * 32,
        long_factors=(2.0,) * 32,
        power=0.1,
    )
    other = dict(
        factor=6.0,
        beta_fast=9.0,
        beta_slow=2.0,
        truncate=False,
        mscale=0.9,
        mscale_all_dim=0.7,
        attention_factor=1.5,
        low_freq_factor=2.0,
        high_freq_factor=8.0,
        short_factors=(3.0,) * 32,
        long_factors=(4.0,) * 32,
        power=0.3,
        clex_width=2,
    )
    numbers = lambda **fields: [
        (tuple(inv_freq), factor)
        for inv_freq, factor in (frequencies(64, length, **start | fields) for length in (32, 10**6))
    ]
    read = {name for name, value in other.items() if numbers(**{name: value}) != numbers()}
    learned = {"clex_width"} if scaling == "clex" else set()  # the shape of its weights
    assert read | learned == set(scalings.reads(scalings.SCALINGS[scaling]))
    assert set(other) | set(ALWAYS) == {field.name for field in dataclasses.fields(RopeConfig)}


@pytest.mark.parametrize("kind", scalings.SCALINGS.values())
def test_defaults_of_a_scaling_are_those_of_its_settings(kind):
    """Whoever makes a scaling by hand gets what a command line gets; what has no default there means nothing here."""
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            assert field.default == getattr(RopeConfig(), field.name)


@pytest.mark.parametrize("name", scalings.SCALINGS)
def test_a_scaling_made_by_hand_is_that_of_the_settings(name):
    config = RopeConfig(theta=500.0, scaling=name, factor=4.0, original_length=64, power=0.1, rotary_fraction=0.5)
    config = dataclasses.replace(config, short_factors=(1.0,) * 4, long_factors=(2.0,) * 4)
    kind = scalings.SCALINGS[name]
    given = {"factor", *scalings.required(kind)}.intersection(scalings.numbers_of(kind))
    scaling = kind(**{number: getattr(config, number) for number in given})
    assert scaling == scalings.of(config) and hash(scaling) == hash(scalings.of(config))
    inv_freq, factor = scaling.frequencies(scalings.Rotation(500.0, 16, 0.5), 100)
    np.testing.assert_array_equal(inv_freq, api.frequencies(config, 16, 100)[0])
    assert factor == api.frequencies(config, 16, 100)[1]


@pytest.mark.parametrize("name", scalings.SCALINGS)
def test_the_theta_that_equals_a_scaling(name):
    config = RopeConfig(scaling=name, factor=4.0, original_length=64, power=0.1)
    theta = scalings.of(config).equal_theta(api.rotation(config, 64))
    assert (theta is not None) == (name in ("none", "ntk"))
    if theta is not None:
        np.testing.assert_array_equal(frequencies(theta=theta)[0], api.frequencies(config, 64, 1)[0])


def test_yarn_without_extension_is_plain():
    same = frequencies(scaling="yarn", factor=1.0, original_length=256)
    np.testing.assert_allclose(same[0], frequencies()[0], rtol=SAME)
    assert same[1] == 1.0


def test_yarn_beyond_the_slowest_dimension_keeps_all():
    """Where every dimension turns more than beta_fast times in the trained length there is nothing to stretch."""
    got = frequencies(scaling="yarn", factor=4.0, original_length=10**8)[0]
    np.testing.assert_allclose(got, frequencies()[0], rtol=SAME)


@pytest.mark.parametrize("scaling", scalings.SCALINGS)
def test_the_scalings_that_ask_for_the_length_are_known(scaling):
    how = dict(
        scaling=scaling, factor=2.0, original_length=64, power=0.5, short_factors=(1.0,) * 32, long_factors=(2.0,) * 32
    )
    short, long = (frequencies(**how, length=length) for length in (64, 512))
    assert (short[0] != long[0]).any() == scalings.SCALINGS[scaling].by_length and short[1] == long[1]


def test_giraffe_power():
    theta = 10000.0 ** (-np.arange(32) / 32)
    got, factor = frequencies(scaling="power", power=0.5)
    np.testing.assert_allclose(got, theta * np.sqrt(1 - np.arange(32) / 32), rtol=SAME)
    assert factor == 1.0


def test_giraffe_truncation():
    """Kept while the wavelength fits into L, one slow frequency while it fits into 8 L, none beyond."""
    theta = 10000.0 ** (-np.arange(32) / 32)
    got = frequencies(scaling="truncated", original_length=512)[0]
    wavelength = 2 * np.pi / theta
    kept, slow = wavelength <= 512, (wavelength > 512) & (wavelength <= 8 * 512)
    assert kept.sum() == 16 and 0 < slow.sum() < 16 - slow.sum()
    np.testing.assert_array_equal(got[kept], theta[kept])
    np.testing.assert_allclose(got[slow], 2 * np.pi / (16 * 512), rtol=SAME)
    np.testing.assert_array_equal(got[~kept & ~slow], 0)


def test_nope_rotates_nothing():
    assert all(
        len(frequencies(scaling=scaling, rotary_fraction=0.0, factor=2.0, original_length=64, power=1.0)[0]) == 0
        for scaling in scalings.SCALINGS
        if scaling != "proportional"
    )


@example(RopeConfig(theta=2.0, scaling="yarn", original_length=1, beta_slow=5e-324), 1)
@given(
    st.builds(
        RopeConfig,
        theta=st.floats(1.01, 1e9),
        scaling=st.sampled_from(list(scalings.SCALINGS)),
        factor=st.floats(1, 1e4),
        original_length=st.integers(0, 2**24),
        rotary_fraction=st.sampled_from([0.0, 0.125, 0.5, 1.0]),
        truncate=st.booleans(),
        mscale=st.floats(0, 2),
        mscale_all_dim=st.floats(0, 2),
        power=st.floats(0, 2),
        beta_slow=st.floats(0, 40),
        long_factors=st.just((2.0,) * 8),
        short_factors=st.just((1.0,) * 8),
    ),
    st.integers(1, 2**30),
)
def test_whatever_is_accepted_gives_finite_frequencies(config, length):
    """Not negative, none above 1 but by rounding: no scaling here turns a dimension faster than plain RoPE does."""
    try:
        inv_freq, factor = api.frequencies(config, 16, length)
    except UserError:
        reject()
    assert inv_freq.dtype == np.float64 and inv_freq.ndim == 1
    assert np.isfinite(inv_freq).all() and (inv_freq >= 0).all() and (inv_freq <= 1 + SAME).all()
    assert math.isfinite(factor) and factor > 0


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(scaling="yran"), "model.rope.scaling='yran' is not known. Did you mean 'yarn'"),
        (dict(scaling="yarn(4.0)", original_length=8), "model.rope.scaling='yarn.4.0.' must be yarn alone"),
        (dict(scaling=4), "model.rope.scaling=4 is not known"),
        (dict(pairing="interlaced"), "model.rope.pairing='interlaced' is not known. Did you mean 'interleaved'"),
        (dict(scaling="yarn", factor=4.0), "model.rope.original_length=0 must be the trained length"),
        (dict(scaling="dynamic", factor=4.0), "model.rope.original_length=0 must be the trained length"),
        (dict(scaling="longrope", original_length=1), "model.rope.original_length=1 must .* at least 2"),
        (dict(scaling="truncated"), "model.rope.original_length=0 must be the trained length"),
        (dict(theta=0.5), "model.rope.theta=0.5 must be above 1"),
        (dict(factor=0.0), "model.rope.factor=0.0 must be positive"),
        (dict(rotary_fraction=1.5), "model.rope.rotary_fraction=1.5 must be between 0"),
        (dict(rotary_fraction=0.35), "rotary_fraction=0.35 makes 5 of 16 dimensions .* 0.375 works"),
        (dict(scaling="ntk", rotary_fraction=0.125), "scaling='ntk' needs 4 dimensions .* leaves 2 of 16"),
        (
            dict(scaling="longrope", original_length=8, short_factors=(1.0,)),
            "short_factors holds 1 numbers, .* 8 pairs",
        ),
        (
            dict(scaling="longrope", original_length=8, short_factors=(1.0,) * 8, long_factors=(1.0,) * 7 + (0.0,)),
            "long_factors holds 8 numbers, .* positive",
        ),
        (dict(scaling="yarn", original_length=8, beta_slow=40.0), "beta_fast=32.0 must exceed beta_slow=40.0"),
        (dict(mscale=-1.0), "mscale=-1.0 must not be negative"),
        (dict(attention_factor=-1.0), "attention_factor=-1.0 must not be negative"),
        (dict(scaling="power"), "power=0.0 must be positive"),
        (dict(theta=float("nan")), "theta=nan must be finite"),
        (dict(theta="1e4"), "theta='1e4' must be finite, a number"),
        (dict(factor=float("inf")), "factor=inf must be finite"),
        (dict(rotary_fraction=float("nan")), "rotary_fraction=nan"),
        (dict(scaling="longrope", original_length=8, short_factors=(float("nan"),) * 8), "short_factors=.nan"),
        (dict(scaling="llama3", original_length=8, low_freq_factor=5.0), "high_freq_factor=4.0 must not be below"),
    ],
)
def test_settings_that_cannot_work_are_named(config, message):
    with pytest.raises(UserError, match=message) as caught:
        api.frequencies(RopeConfig(**config), 16, 1)
    assert "\n" not in str(caught.value)
