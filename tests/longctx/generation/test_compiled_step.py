"""A step of generation through the real TPU compiler: which kernel reads the cache, and that it copies none of it."""

import pytest

from tests.helpers import NEEDS_TPU_COMPILER, compiled_for_tpu, nightly, slow


@NEEDS_TPU_COMPILER
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "arguments, kernels", [*slow((("v6e", "tpu_decode", "256"), 2)), *nightly((("v5e", "auto", "128"), 1))]
)
def test_a_step_copies_no_keys(arguments, kernels):
    """One kernel in the loop over layers, by name another for the new token's own key."""
    found, temporary, of_layer = map(
        int, compiled_for_tpu("tests.longctx.generation.compile_step", *arguments, timeout=200)
    )
    assert found == kernels and temporary < of_layer / 10
