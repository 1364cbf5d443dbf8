"""Strategies on eight GPUs, through XLA's CUDA compiler: a schedule that computes while keys travel."""

import pytest

from tests.helpers import NEEDS_CUDA_COMPILER, nightly, slow, worker_lines


@NEEDS_CUDA_COMPILER
@pytest.mark.parametrize(
    "chip, strategy, layout, kernel",
    [
        *slow(("h100", "ring", "zigzag", "mosaic_gpu")),
        *nightly(
            ("h100", "ring", "zigzag", "cudnn"),
            ("h100", "ring", "contiguous", "cudnn"),
            ("h100", "ring", "zigzag", "chunked"),
            ("h200", "ring", "zigzag", "jax_triton"),
            ("b200", "ring", "zigzag", "cudnn"),
        ),
    ],
)
def test_work_between_start_and_end_of_hops(chip, strategy, layout, kernel):
    """In all hops forward, and those in loops backward; of the leap out and of the last hops home XLA hides a part."""
    lines = worker_lines(
        "tests.longctx.context_parallel.compile_for_gpu",
        (chip, strategy, layout, kernel),
        {"JAX_PLATFORMS": "cpu"},
        timeout=250,
    )
    (forward, in_loops), (both, in_both_loops) = (map(float, line.split()) for line in lines)
    assert forward == in_loops == in_both_loops == 1
    assert both > 0.75
