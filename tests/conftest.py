"""Sixteen simulated devices for every test, and the strictest settings: rank promotion and warnings are errors."""

import importlib.metadata
import os

# before jax starts: ppermute loops over simulated devices hang with fewer threads
os.environ["NPROC"] = "32"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# most of the tests' time is compiling: without optimisation 40% less, and less than half of the rest with XLA's older
# emitters, which start no MLIR pipeline for each loop. Newer versions have only the new ones, and end where they read
# an unknown flag. What is compiled for TPUs and GPUs does without these flags.
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FAST_COMPILE += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FAST_COMPILE)
os.environ["LONGCTX_COMPILE_CACHE"] = "0"  # commands under test leave nothing in the user's home
# what @triton.jit makes is decided once for a process; those that compile for GPUs are processes of their own
os.environ["TRITON_INTERPRET"] = "1"

import gc  # noqa: E402
import pathlib  # noqa: E402

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from tests import annotations  # noqa: E402

jax.config.update("jax_num_cpu_devices", 16)
# what was compiled before, by another test or in another run, is read again: a second run takes a third of the time.
# (In the environment it would reach the processes that compile for chips, whose dumps are what is tested.)
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # nobody reads where in Python an operation was made
# a change is not to fail by an example that nobody has seen before: .ci/nightly looks for new ones
hypothesis.settings.register_profile("same_examples", derandomize=True)
# tracing makes millions of objects, hardly any of them garbage: collecting so often took 5% of the time
gc.set_threshold(50_000, 20, 20)


def pytest_configure(config):
    """Shapes and types are checked in the main tier alone: the others call the same functions, and it takes 13%."""
    if not config.option.markexpr.startswith(("slow", "nightly")):
        jaxtyping.install_import_hook(annotations.MODULES, "tests.annotations.checked")


# of the tests that every kernel inherits
CANARIES = "test_scale_and_soft_cap", "test_rows_that_see_nothing"


def pytest_itemcollected(item):
    """Marks the canaries among inherited tests."""
    if getattr(item, "originalname", "") in CANARIES and getattr(getattr(item, "cls", None), "kernel", None):
        item.add_marker(pytest.mark.canary)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Or a worker holds the programs of hundreds of tests, gigabytes of them."""
    yield
    jax.clear_caches()
