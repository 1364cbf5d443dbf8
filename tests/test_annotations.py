"""The annotations of the public functions are checked in the main tier; here, that what does not fit them is caught."""

import importlib
import inspect

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import longctx as lc
from longctx.errors import UserError
from longctx.layouts import inverse, permute
from pallas_kernels import masks
from pallas_kernels.attention.pair import RowStats, row_stats, unsupported, with_sinks
from tests import annotations
from tests.helpers import problem


def pair(B=2, T=3, N=4, H=8, lse_rows=None):
    return lc.Pair(jnp.zeros((B, T, N, H)), jnp.zeros((lse_rows or B, T, N)))


@pytest.mark.parametrize("name", annotations.MODULES)
def test_every_named_module_is_checked(name):
    module = importlib.import_module(name)
    own = [value for _, value in inspect.getmembers(module, inspect.isfunction) if value.__module__ == name]
    assert own and all(hasattr(function, "__wrapped__") for function in own)


def test_what_fits_passes():
    assert lc.merge(pair(), pair()).out.shape == (2, 3, 4, 8)
    assert with_sinks(pair(), jnp.zeros(4)).lse.shape == (2, 3, 4)
    assert row_stats(pair(), (jnp.zeros((2, 3, 4, 8)), None)).delta.shape == (2, 3, 4)
    assert permute(np.zeros((2, 3, 7)), np.arange(3)[None]).shape == (2, 3, 7)


@pytest.mark.parametrize(
    "call",
    [
        lambda: lc.merge(pair(B=2), pair(B=1)),
        lambda: lc.merge(pair(), pair(lse_rows=1)),
        lambda: with_sinks(pair(), jnp.zeros(1)),
        lambda: with_sinks(pair(), jnp.zeros(4, jnp.int32)),
        lambda: row_stats(pair(), (jnp.zeros((2, 3, 4, 8)), jnp.zeros((1, 3, 4)))),
        lambda: row_stats(pair(), (jnp.zeros((2, 3, 1, 8)), None)),
        lambda: masks.sees(lc.Causal(), *[lc.TokenInfo(jnp.zeros((2, 3)), jnp.ones((2, 3), jnp.int32))] * 2),
        lambda: masks.sees(lc.Causal(), lc.TokenInfo(1, 1), lc.TokenInfo(jnp.ones(2, int), jnp.ones(2, int))),
        lambda: inverse(np.array([[2.0, 0.0, 1.0]])),
        lambda: unsupported(problem().inputs()._replace(v=jnp.zeros((2, 50, 2, 8)))),
    ],
    ids="rows lse_rows heads dtype dlse dout positions numbers order H".split(),
)
def test_what_does_not_fit_is_caught(call):
    """None of these calls fails by itself: jax broadcasts and promotes."""
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_the_errors_of_a_function_come_first():
    q, k = jnp.zeros((1, 8, 2, 4)), jnp.zeros((1, 8, 2, 6))
    with pytest.raises(UserError, match="head dims must be equal"):
        lc.attention(q, k, k)


def test_fields_of_named_tuples_stand_in_annotations():
    hint = annotations.with_fields(tuple[RowStats, int] | None)
    assert jaxtyping.jaxtyped(typechecker=None)(lambda: annotations.is_bearable(None, hint))()
    stats = RowStats(jnp.zeros((2, 3, 4, 8)), jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 5)))
    with jaxtyping.jaxtyped("context"):
        assert not annotations.is_bearable((stats, 1), hint)
    with jaxtyping.jaxtyped("context"):
        assert annotations.is_bearable((stats._replace(delta=stats.lse), 1), hint)
        assert not annotations.is_bearable((stats._replace(delta=stats.lse), "1"), hint)


def test_results_are_checked(tmp_path, monkeypatch):
    (tmp_path / "of_letters.py").write_text(
        "import jax\nfrom jaxtyping import Array, Float\n\n\n"
        'def swapped(x: Float[Array, "T D"]) -> Float[Array, "D T"]:\n    return x\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    with jaxtyping.install_import_hook("of_letters", "tests.annotations.checked"):
        swapped = importlib.import_module("of_letters").swapped
    assert swapped(jnp.zeros((3, 3))).shape == (3, 3)
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        swapped(jnp.zeros((3, 4)))
