"""What many tests share: comparisons, and processes with the compilers of hardware that is not here."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import pytest

from experiments.hardware import gpu_schedule, tpu_schedule
from pallas_kernels import gpu_chips
from pallas_kernels.testing import MASKS
from pallas_kernels.testing import Problem as Problem
from pallas_kernels.testing import assert_close as assert_close
from pallas_kernels.testing import input_types as input_types
from pallas_kernels.testing import keys_from as keys_from
from pallas_kernels.testing import one_document as one_document
from pallas_kernels.testing import packed as packed
from pallas_kernels.testing import piece_by_piece as piece_by_piece
from pallas_kernels.testing import problem as problem
from pallas_kernels.testing import relative_error as relative_error
from pallas_kernels.testing import results as results
from pallas_kernels.testing import tolerance as tolerance
from pallas_kernels.testing import truth as truth

ROOT = pathlib.Path(__file__).parents[1]

QUICK_MASKS = "causal", "sinks", "beyond", "branches", "packed_prefix_window"

NEEDS_TPU_COMPILER = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu, the TPU compiler, is not installed"
)
NEEDS_CUDA_COMPILER = pytest.mark.skipif(bool(gpu_schedule.missing()), reason=str(gpu_schedule.missing()))


def slow(*cases) -> list:
    """Cases of a parametrize, tuples of its arguments or single ones, that only the slow tier runs."""
    return _marked(pytest.mark.slow, cases)


def nightly(*cases) -> list:
    """Cases of a parametrize that only the nightly tier runs: others of the same law are in the tiers before it."""
    return _marked(pytest.mark.nightly, cases)


def _marked(mark, cases) -> list:
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark) for case in cases]


def imported(folder, name, text):
    """The class Toy of a file with that text, which is written first."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Toy


def like_a_person() -> dict[str, str]:
    """The environment without what conftest.py asks of compilers."""
    return {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "TRITON_INTERPRET")}


def fast_compile() -> dict[str, str]:
    """The environment in which a process compiles as the tests do: quickly, and not what was compiled before."""
    return {
        "XLA_FLAGS": os.environ["XLA_FLAGS"],  # conftest's
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def later(cases, *named: str) -> list:
    """The cases of a parametrize, of which the slow tier alone runs those that are named."""
    return [*(case for case in cases if case not in named), *slow(*(case for case in cases if case in named))]


def mask_cases(*halved: tuple[str, str], rest=nightly) -> list:
    """Cases (mask, dtype) of KernelCases.test_masks: each of QUICK_MASKS in one dtype, float32 but for some `halved`;
    with the slow tier all in float32; with the nightly one, or already with that of `rest`, all in both."""
    in_half = [name for name, _ in halved]
    single = [(name, "float32") for name in MASKS]
    first = [(name, dtype) for name, dtype in single if name in QUICK_MASKS and name not in in_half]
    others = [(name, "bfloat16") for name in MASKS if (name, "bfloat16") not in halved]
    return [*first, *halved, *slow(*(case for case in single if case not in first)), *rest(*others)]


def compiled_for_tpu(worker: str, *arguments: str, timeout: float) -> list[str]:
    """The lines that the module `worker` prints, run with the TPU compiler and no TPU. For NEEDS_TPU_COMPILER tests."""
    return worker_lines(worker, arguments, tpu_schedule.ENVIRONMENT, timeout)


def compiled_for_gpu(chip: str, worker: str, *arguments, timeout: float) -> tuple[list[gpu_schedule.Kernel], list[str]]:
    """The kernels of what the module `worker` compiles, with XLA's CUDA compiler and no GPU, XLA's own among them; and
    the lines that it prints.

    The worker is called with `chip` before the arguments; kernel_worker.compiled is what it needs. For
    NEEDS_CUDA_COMPILER tests.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = worker_lines(worker, (chip, *map(str, arguments)), gpu_schedule.environment(folder), timeout)
        return gpu_schedule.read(folder, gpu_chips.CHIPS[chip]), lines


def worker_lines(worker: str, arguments, environment: dict, timeout: float) -> list[str]:
    """The lines that the module `worker` prints, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", worker, *arguments],
        cwd=ROOT,
        text=True,
        env=like_a_person() | environment,
        capture_output=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()
