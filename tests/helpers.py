"""What many tests share: comparisons, and processes with the compilers of hardware that is not here."""
import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from experiments import tpu_schedule
from experiments.attention_problem import Problem as Problem
from experiments.attention_problem import one_document as one_document
from experiments.attention_problem import packed as packed
from experiments.attention_problem import problem as problem
from experiments.attention_problem import relative_error, tolerance
from experiments.attention_problem import truth as truth

NEEDS_TPU_COMPILER = pytest.mark.skipif(not importlib.util.find_spec("libtpu"),
                                        reason="libtpu, the TPU compiler, is not installed")
NEEDS_CUDA_COMPILER = pytest.mark.skipif(not importlib.util.find_spec("jax_cuda13_plugin"),
                                         reason="jax-cuda13-plugin, XLA's CUDA compiler, is not installed")


def slow(*cases) -> list:
    """Cases of a parametrize, tuples of its arguments or single ones, that only the slow tier runs."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]


def assert_close(got, want, dtype, terms: int, what: str = ""):
    """Every leaf of got within tolerance(dtype, terms) of want."""
    for i, (g, w) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)):
        error = relative_error(g, w)
        assert error <= tolerance(dtype, terms), f"{what} leaf {i}: error {error:.2e} > {tolerance(dtype, terms):.2e}"


def like_a_person() -> dict[str, str]:
    """The environment without what conftest.py asks of compilers."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def compiled_for_tpu(worker: str, *arguments: str, timeout: float) -> list[str]:
    """The lines that the module `worker` prints, run with the TPU compiler and no TPU. For NEEDS_TPU_COMPILER tests."""
    done = subprocess.run([sys.executable, "-m", worker, *arguments], cwd=pathlib.Path(__file__).parents[1], text=True,
                          env=like_a_person() | tpu_schedule.ENVIRONMENT, capture_output=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()
