"""The Triton kernels on a CPU: interpreted against the float64 reference, and compiled for GPUs that are not here."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from longctx.config import MeshConfig
from pallas_kernels import gpu_chips, masks, triton_call
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.triton import blocks as triton_blocks
from pallas_kernels.attention.triton import kernel as triton
from pallas_kernels.testing import MASKS, KernelCases, Sizes
from tests.helpers import NEEDS_CUDA_COMPILER, input_types, later, mask_cases, nightly, packed, problem, slow
from tests.longctx.context_parallel import cut
from tests.pallas_kernels.triton_machine_code import triton_kernels_for
from tests.triton_interpreter import NEEDS_TRITON, interpreted  # noqa: F401

INTERPRETED = pytest.mark.usefixtures("interpreted")
RECORDED = {"forward": 567, "dq": 349, "dkdv": 411}  # instructions of loops without masks: Hopper, heads of 128


@NEEDS_TRITON
@INTERPRETED
class TestInterpreted(KernelCases):
    kernel = "jax_triton"
    sizes = Sizes(T=40, N=2, K=1)
    shapes = {
        "gqa": dict(N=6, K=3, H=32, B=1),
        "one_token": dict(T=1, S=1, N=4, K=2),
        "few_queries": dict(T=7, S=33, N=4, K=4),
        "few_keys": dict(T=33, S=7, N=4, K=1),
    }

    @pytest.mark.parametrize("mask, dtype", mask_cases(("packed_prefix_window", "bfloat16"), ("sinks", "float16")))
    def test_masks(self, mask, dtype):
        super().test_masks(mask, dtype)

    @pytest.mark.parametrize("shape", later(shapes, "few_queries"))
    def test_shapes(self, shape):
        super().test_shapes(shape)

    @pytest.mark.slow
    @pytest.mark.parametrize("cuts, dtype", [(2, "float32"), (2, "bfloat16"), (5, "float32")])
    def test_cut_keys(self, cuts, dtype):
        super().test_cut_keys(cuts, dtype)

    @pytest.mark.parametrize("dtype, soft_cap", [("bfloat16", 0.0), *slow(("float32", 5.0))])
    def test_blocks_of_its_own_choice(self, dtype, soft_cap):
        info = packed(5, 1, 200, mean=90)
        p = self.problem(0, dtype, (info, info), B=1, T=200, H=64)
        self.check(p, AttentionSpec(masks.parse("causal & segments"), soft_cap=soft_cap))


def test_masks_are_all_there_are():
    names = lambda program: {program[0]}.union(*(names(x) for x in program[1:] if isinstance(x, tuple)))
    programs = [triton.program(mask) for mask in MASKS.values()]
    assert set.union(*map(names, programs)) == {mask.__name__ for mask in triton.MASKS}
    assert {mask for mask in masks.Mask.__subclasses__() if mask.__module__ == masks.__name__} == set(triton.MASKS)


def test_a_mask_that_the_kernels_do_not_know_is_a_reason(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Odd(masks.Mask):
        def visible(self, q, k):
            return (q.positions - k.positions) % 2 == 1

    monkeypatch.setattr(triton_call, "find_spec", lambda name: True)
    q = jax.ShapeDtypeStruct((1, 64, 2, 64), jnp.bfloat16)
    with gpu_chips.target("h100"):
        reason = triton.why_not(input_types(q, q), AttentionSpec(masks.Causal() & (Odd() | masks.Sinks(4))), "gpu")
    assert "does not know the mask Odd" in reason


@NEEDS_TRITON
@INTERPRETED
@pytest.mark.parametrize("layout", ["zigzag"])
def test_pieces_of_a_cut_sequence(layout):
    info = packed(2, 1, 64, mean=30)
    p = problem(B=1, T=64, N=2, K=1, infos=(info, info))
    cut.check(p, "causal", MeshConfig(context=2), layout, strategy="ring", kernel="jax_triton", terms=64)


@pytest.mark.parametrize(
    "dtype, H, spec, platform, words",
    [
        ("bfloat16", 64, AttentionSpec(), "cpu", "runs on GPUs"),
        ("float32", 64, AttentionSpec(), "gpu", "not float32"),
        ("bfloat16", 64, AttentionSpec(bias=Alibi()), "gpu", "no bias"),
        ("bfloat16", 80, AttentionSpec(), "gpu", "16, 32, 64, 128 alone, not 80"),
        ("float16", 64, AttentionSpec(block=48), "gpu", "power of two, 16 or more, not 48"),
        ("bfloat16", 128, AttentionSpec(block=256), "gpu", "bytes of shared memory, and may take 232448"),
        ("float16", 128, AttentionSpec(block=64), "gpu", None),
        ("bfloat16", 128, AttentionSpec(), "gpu", None),
    ],
)
def test_why_not_says_why(dtype, H, spec, platform, words, monkeypatch):
    monkeypatch.setattr(triton_call, "find_spec", lambda name: True)
    q = jax.ShapeDtypeStruct((1, 64, 2, H), dtype)
    with gpu_chips.target("h100"):
        reason = triton.why_not(input_types(q, q), spec, platform)
    assert reason is None if words is None else words in reason


def test_a_missing_package_is_a_reason(monkeypatch):
    monkeypatch.setattr(triton_call, "find_spec", lambda name: name == "triton" or None)
    q = jax.ShapeDtypeStruct((1, 64, 2, 64), jnp.bfloat16)
    assert triton.why_not(input_types(q, q), AttentionSpec(), "gpu") == "needs jax_triton: pip install 'longctx[gpu]'"


@pytest.mark.parametrize("H", [16, 64, 128])
@pytest.mark.parametrize("kernel", triton_blocks.SIZES)
@pytest.mark.parametrize(
    "capability, most",
    [
        (None, 65_536),
        ((7, 5), 65_536),
        ((8, 0), 166_912),
        ((8, 9), 101_376),
        ((9, 0), 232_448),
        ((10, 0), 232_448),
        ((12, 0), 101_376),
    ],
)
def test_blocks_fit_the_shared_memory_of_every_architecture(capability, most, kernel, H, monkeypatch):
    monkeypatch.setattr(gpu_chips, "capability", lambda: capability)
    q = jax.ShapeDtypeStruct((1, 64, 2, H), jnp.bfloat16)
    assert triton_blocks.shared(kernel, triton_blocks.choose(kernel, q, 0), q) <= most
    assert triton_blocks.why_not(q, 0) is None and f"may take {most}" in triton_blocks.why_not(q, 2048)


@NEEDS_TRITON
@NEEDS_CUDA_COMPILER
@pytest.mark.parametrize(
    "chip, mask, dtype, H",
    [
        *slow(("h100", "causal & segments", "bfloat16", 128)),
        *nightly(
            ("b200", "causal & window(1000)", "bfloat16", 128),
            ("a100", "causal", "bfloat16", 128),
            ("a100", "causal & segments", "float16", 64),
            ("h200", "(causal | prefix_lm(300)) & chunked(1000) & (window(1000) | sinks(4))", "float16", 64),
        ),
    ],
)
def test_the_compiler_takes_it(chip, mask, dtype, H):
    """The rules for every Triton kernel hold; on Hopper loops without masks are as recorded."""
    kernels = triton_kernels_for(chip, "attention", dtype, mask, H)
    assert set(kernels) == {"forward", "resumed", "dq", "dkdv"}
    for name in RECORDED if (chip, H) in (("h100", 128), ("h200", 128)) else ():
        free = min(loop.instructions for loop in kernels[name].loops if loop.matmuls)
        assert free <= 1.05 * RECORDED[name]
