"""The Triton kernels of cross-entropy on a CPU: interpreted against the definition, and compiled for absent GPUs."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import triton_call
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.cross_entropy.triton import kernel as triton
from pallas_kernels.cross_entropy.triton.kernel import Blocks
from tests.helpers import NEEDS_CUDA_COMPILER, assert_close, nightly, slow
from tests.pallas_kernels.cross_entropy import test_cross_entropy
from tests.pallas_kernels.cross_entropy.test_cross_entropy import inputs, run, truth
from tests.pallas_kernels.triton_machine_code import triton_kernels_for
from tests.triton_interpreter import NEEDS_TRITON, interpreted  # noqa: F401


@NEEDS_TRITON
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "dtype, soft_cap, shape, chunk",
    [("float32", 2.0, (70, 40, 150), 16), ("bfloat16", 0.0, (33, 64, 96), 64), ("float32", 0.0, (300, 32, 64), 1024)],
)
def test_several_blocks_on_either_side(dtype, soft_cap, shape, chunk, monkeypatch):
    """In several parts of the vocabulary, some of them of another size, and with targets outside of it."""
    monkeypatch.setattr(triton, "SIZES", (Blocks(16, 32, 16, 3),))
    x, head, targets, cotangent = inputs(*shape, dtype)
    targets = targets.at[:4].set(jnp.asarray([-1, shape[2], 2**31 - 1, -(2**31)]))
    p, spec = (x * shape[1] ** -0.5, head, targets, cotangent), CrossEntropySpec(soft_cap, chunk)  # logits of size 1
    assert_close(run(*p, spec, "jax_triton"), truth(*p, spec), dtype, max(shape))


@NEEDS_TRITON
@pytest.mark.usefixtures("interpreted")
def test_parts_of_the_vocabulary_merge_exactly():
    test_cross_entropy.test_parts_of_the_vocabulary_merge_exactly("jax_triton")


@pytest.mark.parametrize(
    "dtype, head_dtype, words",
    [
        ("bfloat16", "bfloat16", None),
        ("float16", "bfloat16", "not float16 hidden states with a bfloat16 head"),
        ("float32", "float32", "not float32"),
    ],
)
def test_why_not_says_why(dtype, head_dtype, words, monkeypatch):
    monkeypatch.setattr(triton_call, "find_spec", lambda name: True)
    x, head = jax.ShapeDtypeStruct((64, 32), dtype), jax.ShapeDtypeStruct((32, 100), head_dtype)
    reason = triton.why_not(x, head, CrossEntropySpec(), "gpu")
    assert reason is None if words is None else words in reason


@pytest.mark.parametrize(
    "M, V, chunk, want",
    [(8192, 128_256, 1024, 15_872), (8192, 50_257, 1024, 6144), (100, 5000, 1024, 5000), (10**6, 5000, 1, 256)],
)
def test_parts_are_as_many_logits_as_asked_for(M, V, chunk, want):
    assert triton.part_size(M, V, CrossEntropySpec(chunk=chunk), triton.SIZES[0]) == want


@NEEDS_TRITON
@NEEDS_CUDA_COMPILER
@pytest.mark.parametrize(
    "chip, D, V", [*slow(("h100", 4096, 128_256)), *nightly(("a100", 2048, 32_000), ("b200", 4096, 128_256))]
)
def test_the_compiler_takes_it(chip, D, V):
    assert set(triton_kernels_for(chip, "cross_entropy", "bfloat16", D, V)) == {"forward", "gradient"}
