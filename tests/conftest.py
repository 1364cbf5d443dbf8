"""Sixteen simulated devices for every test, and the strictest settings: rank promotion and warnings are errors."""

import os

# before jax starts: ppermute loops over simulated devices hang with fewer threads
os.environ["NPROC"] = "32"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# most of the tests' time is compiling, and this takes 40% of it away; what is compiled for TPUs and GPUs does without
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# what @triton.jit makes is decided once for a process; those that compile for GPUs are processes of their own
os.environ["TRITON_INTERPRET"] = "1"

import pathlib  # noqa: E402

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from tests import annotations  # noqa: E402

jaxtyping.install_import_hook(annotations.MODULES, "tests.annotations.checked")

jax.config.update("jax_num_cpu_devices", 16)
# what was compiled before, by another test or in another run, is read again: a second run takes a third of the time.
# (In the environment it would reach the processes that compile for chips, whose dumps are what is tested.)
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Or a worker holds the programs of hundreds of tests, gigabytes of them."""
    yield
    jax.clear_caches()
