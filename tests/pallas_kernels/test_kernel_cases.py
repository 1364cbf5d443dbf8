"""A new kernel inherits its tests: a toy from temporary files passes them, and with a mistake planted it fails."""

import collections
import re
import subprocess
import sys

import pytest

from pallas_kernels.testing import KernelCases
from tests.helpers import ROOT, fast_compile, like_a_person

KERNEL = '''
"""Dense attention in plain jnp, without biases."""

import jax
import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.attention.pair import Grads, Pair, merge, unsupported
from pallas_kernels.attention.spec import cap, cap_slope


def why_not(x, spec, platform):
    return unsupported(x) or ("has no bias" if spec.bias else None)


def forward(x, spec, initial=None):
    q, k, v, s = parts(x, spec)
    lse = jax.nn.logsumexp(s, -1)
    out = jnp.einsum("BTNS,BSNH->BTNH", jnp.exp(s - finite(lse)[..., None]), v)
    pair = Pair(out.astype(spec.result_dtype(x.q)), lse)
    return pair if initial is None else merge(initial, pair)


def backward(x, spec, stats):
    q, k, v, s = parts(x, spec)
    dout, p = stats.dout.astype(jnp.float32), jnp.exp(s - finite(stats.lse)[..., None])
    ds = p * (jnp.einsum("BTNH,BSNH->BTNS", dout, v) - stats.delta[..., None])
    ds = ds * jnp.where(jnp.isfinite(s), cap_slope(s, spec.soft_cap), 0.0) * spec.score_scale(x.q.shape[-1])
    dq, dk = jnp.einsum("BTNS,BSNH->BTNH", ds, k), jnp.einsum("BTNS,BTNH->BSNH", ds, q)
    dv = jnp.einsum("BTNS,BTNH->BSNH", p, dout)
    return spec.rounded(Grads(dq, by_key_head(dk, x), by_key_head(dv, x)), x)


def parts(x, spec):
    """q, k and v in float32, of all query heads; scores BTNS, -inf where nothing is seen."""
    q, k, v = (y.astype(jnp.float32) for y in x[:3])
    k, v = (jnp.repeat(y, q.shape[2] // y.shape[2], 2) for y in (k, v))
    s = cap(jnp.einsum("BTNH,BSNH->BTNS", q, k) * spec.score_scale(q.shape[-1]), spec.soft_cap)
    return q, k, v, jnp.where(masks.visible(spec.mask, x.q_info, x.k_info)[:, :, None], s, -jnp.inf)


def finite(lse):
    return jnp.where(jnp.isfinite(lse), lse, 0.0)


def by_key_head(grad, x):
    B, S, N, H = grad.shape
    return grad.reshape(B, S, x.k.shape[2], -1, H).sum(3)
'''
CASES = """
import {module}
from pallas_kernels.testing import MASKS, SHAPES, KernelCases


class TestToy(KernelCases):
    kernel = {module}
    masks = {{"packed": MASKS["packed"]}}
    shapes = {{"mqa": SHAPES["mqa"], "few_keys": SHAPES["few_keys"]}}
    test_empty_blocks_are_not_visited = None  # it is dense
"""
MISTAKES = {  # name -> what stands in the kernel, what stands there instead, the test that fails
    "gradient_of_one_head_of_a_group": (".sum(3)", "[:, :, :, 0]", "test_shapes[mqa]"),
    "no_delta": ("- stats.delta[..., None]", "", "test_masks[packed-float32]"),
    "no_slope_of_the_cap": ("cap_slope(s, spec.soft_cap)", "1.0", "test_scale_and_soft_cap"),
    "lse_of_the_piece": ("finite(stats.lse)", "finite(jax.nn.logsumexp(s, -1))", "test_cut_keys[2-float32]"),
    "no_going_on": ("merge(initial, pair)", "pair", "test_cut_keys[2-float32]"),
    "nan_in_blind_rows": ("jnp.where(jnp.isfinite(lse), lse, 0.0)", "lse", "test_rows_that_see_nothing"),
    "rounded_parts": ("spec.result_dtype(x.q)", "x.q.dtype", "test_dtypes_of_results"),
    "takes_all": ("unsupported(x) or", "None or", "test_what_no_kernel_takes_is_refused"),
}
PLAIN_PYTEST = {"COLUMNS": "200", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
LINE = re.compile(r"^test_(\w+)\.py::TestToy::(\S+) (PASSED|FAILED|ERROR|SKIPPED \(.*?\))", re.MULTILINE)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict[str, str]]:
    """By file and test what became of it; one run of pytest over the toy and over all mistakes."""
    folder, chosen = tmp_path_factory.mktemp("toys"), []
    for name, (old, new, test) in {"toy": ("", "", ""), **MISTAKES}.items():
        assert old in KERNEL
        (folder / f"{name}.py").write_text(KERNEL.replace(old, new) if old else KERNEL)
        (folder / f"test_{name}.py").write_text(CASES.format(module=name))
        chosen.append(f"test_{name}.py" + (f"::TestToy::{test}" if test else ""))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=280,
        env=like_a_person() | PLAIN_PYTEST | {"PYTHONPATH": str(ROOT)} | fast_compile(),
    )
    found = collections.defaultdict(dict)
    for module, test, outcome in LINE.findall(done.stdout):
        found[module][test] = outcome
    assert found["toy"], done.stdout[-3000:] + done.stderr[-1000:]
    return found


def test_a_new_kernel_passes_the_tests_that_it_inherits(outcomes):
    """And what its why_not refuses is skipped with that reason."""
    refused = {test: outcome for test, outcome in outcomes["toy"].items() if outcome != "PASSED"}
    assert refused and set(refused.values()) == {"SKIPPED (the kernel has no bias)"}, refused
    assert all(test.startswith("test_biases[") for test in refused)
    assert {test.split("[")[0] for test in outcomes["toy"]} == {
        name for name in vars(KernelCases) if name.startswith("test_") and name != "test_empty_blocks_are_not_visited"
    }


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails(mistake, outcomes):
    assert outcomes[mistake] == {MISTAKES[mistake][2]: "FAILED"}
