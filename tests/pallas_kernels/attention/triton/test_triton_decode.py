"""The Triton kernel for a few queries on a CPU: interpreted against the float64 reference, and compiled for GPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import gpu_chips, triton_call
from pallas_kernels.attention import api
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.triton import decode
from pallas_kernels.masks import Causal, Segments, TokenInfo, Window
from pallas_kernels.testing import KernelCases, Sizes, one_document
from tests.helpers import NEEDS_CUDA_COMPILER, assert_close, input_types, mask_cases, nightly, packed, slow, truth
from tests.pallas_kernels.triton_machine_code import triton_kernels_for
from tests.triton_interpreter import NEEDS_TRITON, interpreted  # noqa: F401

INTERPRETED = pytest.mark.usefixtures("interpreted")
KEYS = 75  # of a row: five blocks of 16, the last one of 11


@NEEDS_TRITON
@INTERPRETED
class TestInterpreted(KernelCases):
    """Queries are the last tokens of the rows."""

    kernel = "triton_decode"
    sizes = Sizes(T=16, S=KEYS)
    shapes = {
        "mha": dict(T=1, S=40, N=3, K=3, H=32),
        "mqa": dict(T=16, S=33, N=5, K=1, B=1),
        "gqa": dict(T=3, S=7, N=6, K=2, H=32, B=1),
        "one_token": dict(T=1, S=1),
        "whole_blocks": dict(T=2, S=64, H=128, B=1),
    }
    test_biases = None  # it has none

    def problem(self, seed=0, dtype=None, infos=None, **changes):
        """As KernelCases.problem; of as many tokens as there are infos."""
        if infos is None:
            B, T, S = (changes.get(name, getattr(self.sizes, name)) for name in "BTS")
            infos = one_document(B, T, S - T), one_document(B, S)
        lengths = dict(zip("TS", (info.positions.shape[1] for info in infos), strict=True))
        return super().problem(seed, dtype, infos, **changes | lengths)

    def packed(self, seed, mean=30):
        info = packed(seed, self.sizes.B, KEYS, mean)
        return TokenInfo(*(x[:, -self.sizes.T :] for x in info)), info

    @pytest.mark.parametrize("mask, dtype", mask_cases(("packed_prefix_window", "bfloat16"), ("sinks", "float16")))
    def test_masks(self, mask, dtype):
        super().test_masks(mask, dtype)

    def test_cut_keys(self, dtype):
        """The last queries see keys of the second piece only, and padding sees none."""
        self.check_cut(self.problem(6, dtype, self.packed(7)), (0, 40), (40, KEYS))

    def test_blocks_of_its_own_choice(self):
        p = self.problem(0, "bfloat16", T=3, S=200, H=64, B=1)
        self.check(p, AttentionSpec(Causal() & Window(150)))

    def test_empty_blocks_are_not_visited(self):
        """NaN in keys that no query may see reaches nothing: a block that is skipped is never multiplied."""
        p, spec = self.problem(), AttentionSpec(Causal() & Window(20), block=16)
        unseen = lambda x: x.at[:, :32].set(jnp.nan)  # the first query is at 59, and sees from 40 on
        pair = decode.forward(p._replace(k=unseen(p.k), v=unseen(p.v)).inputs(), spec)
        assert_close(pair, truth(p, spec)[:2], "float32", KEYS)

    @pytest.mark.parametrize("parts", [1, 2, 5, 8])
    def test_any_number_of_splits_is_the_same(self, parts, monkeypatch):
        """One of five blocks is EMPTY and two are FULL; of eight parts four see nothing."""
        monkeypatch.setattr(decode, "splits", lambda *sizes: parts)
        p, spec = self.problem(3, T=4), AttentionSpec(Causal() & Window(55), soft_cap=5.0, block=16)
        assert_close(decode.forward(p.inputs(), spec), truth(p, spec)[:2], "float32", KEYS)

    def test_a_cache_of_rows_of_different_lengths(self, monkeypatch):
        """Slots are in no order, most are empty, and what lies in them must not matter; the last row has no token."""
        monkeypatch.setattr(decode, "splits", lambda *sizes: 3)
        rng, lengths, S = np.random.default_rng(5), np.array([50, 3, 0]), 64
        slot = np.stack(
            [np.where(np.arange(S) < n, rng.permutation(max(n, 1))[np.arange(S) % max(n, 1)], 0) for n in lengths]
        )
        held = np.arange(S) < lengths[:, None]
        keys = TokenInfo(jnp.asarray(slot, jnp.int32), jnp.asarray(held, jnp.int32))
        last = jnp.asarray(lengths[:, None] - 1, jnp.int32)
        queries = TokenInfo(jnp.maximum(last, 0), (last >= 0).astype(jnp.int32))
        p, spec = self.problem(infos=(queries, keys), B=3), AttentionSpec(Causal() & Segments() & Window(40), block=16)
        far = lambda x: jnp.where(held[..., None, None], x, 1e4)
        out, lse = decode.forward(p._replace(k=far(p.k), v=far(p.v)).inputs(), spec)
        assert_close((out, lse), truth(p, spec)[:2], "float32", S)
        assert not out[2].any() and np.isneginf(lse[2]).all() and np.isfinite(lse[:2]).all()


@pytest.mark.parametrize(
    "slots, programs, key_blocks, want",
    [
        (396, 8, 2048, 45),  # one row of an 8B model: 360 of 396 at once
        (396, 8, 1, 1),
        (396, 396, 2048, 1),
        (396, 4000, 2048, 1),
        (100, 60, 2048, 3),  # 180 in two waves; two would be 120 in two
        (100, 60, 2, 1),
    ],
)
def test_splits_fill_the_processors(slots, programs, key_blocks, want):
    assert decode.splits(slots, programs, key_blocks) == want


@pytest.mark.parametrize(
    "T, dtype, H, spec, platform, words",
    [
        (1, "bfloat16", 64, AttentionSpec(), "cpu", "runs on GPUs"),
        (17, "bfloat16", 64, AttentionSpec(), "gpu", "up to 16 queries of a row, not 17"),
        (1, "float32", 64, AttentionSpec(), "gpu", "not float32"),
        (1, "bfloat16", 64, AttentionSpec(bias=Alibi()), "gpu", "no bias"),
        (1, "bfloat16", 80, AttentionSpec(), "gpu", "16, 32, 64, 128 alone, not 80"),
        (1, "float16", 64, AttentionSpec(block=8), "gpu", "power of two, 16 or more, not 8"),
        (1, "bfloat16", 128, AttentionSpec(block=512), "gpu", "bytes of shared memory, and may take 232448"),
        (16, "float16", 128, AttentionSpec(block=64), "gpu", None),
        (1, "bfloat16", 128, AttentionSpec(), "gpu", None),
    ],
)
def test_why_not_says_why(T, dtype, H, spec, platform, words, monkeypatch):
    monkeypatch.setattr(triton_call, "find_spec", lambda name: True)
    q, k = (jax.ShapeDtypeStruct((1, length, 2, H), dtype) for length in (T, 64))
    with gpu_chips.target("h100"):
        reason = decode.why_not(input_types(q, k), spec, platform)
    assert reason is None if words is None else words in reason


def test_few_queries_on_a_gpu_are_its_own(monkeypatch):
    monkeypatch.setattr(triton_call, "find_spec", lambda name: True)
    q = jax.ShapeDtypeStruct((1, 17, 2, 64), "bfloat16")
    x = input_types(q, q)
    for chip in gpu_chips.CHIPS:
        with gpu_chips.target(chip):
            assert api.select("auto", x, AttentionSpec()) is not decode
            few = x._replace(q=jax.ShapeDtypeStruct((1, 1, 2, 64), "bfloat16"))
            assert api.select("auto", few, AttentionSpec()) is decode


@pytest.mark.parametrize("H", [16, 64, 128])
@pytest.mark.parametrize("T, N, K", [(1, 8, 8), (16, 64, 1)])
@pytest.mark.parametrize("capability, most", [(None, 65_536), ((8, 0), 166_912), ((8, 9), 101_376), ((9, 0), 232_448)])
def test_sizes_fit_the_shared_memory_of_every_architecture(capability, most, T, N, K, H, monkeypatch):
    monkeypatch.setattr(gpu_chips, "capability", lambda: capability)
    x = input_types(*(jax.ShapeDtypeStruct((1, *shape, H), jnp.bfloat16) for shape in ((T, N), (64, K))))
    sizes = decode.choose(x, 0)
    assert decode.shared(sizes, x) * decode.resident(sizes, x) <= most
    assert sizes.rows >= min(T * N // K, 64)


@NEEDS_TRITON
@NEEDS_CUDA_COMPILER
@pytest.mark.parametrize(
    "chip, mask, dtype, H, sizes, unit",
    [
        *slow(
            ("h100", "causal & segments", "bfloat16", 128, (1, 8192, 32, 8), "mma_sync"),
            ("b200", "causal", "bfloat16", 128, (16, 8192, 64, 8), "tcgen05"),
        ),
        *nightly(
            ("h200", "causal", "bfloat16", 128, (16, 8192, 64, 8), "wgmma"),
            ("a100", "causal", "bfloat16", 128, (1, 8192, 32, 8), "mma_sync"),
            ("b200", "causal & window(1000)", "bfloat16", 128, (4, 8192, 32, 8), "mma_sync"),
            ("h200", "causal & (window(1000) | sinks(4))", "float16", 64, (1, 8192, 16, 16), "mma_sync"),
            ("a100", "causal & segments", "bfloat16", 64, (16, 8192, 64, 8), "mma_sync"),
            ("h100", "causal", "bfloat16", 128, (1, 8001, 32, 8), "mma_sync"),
        ),
    ],
)
def test_the_compiler_takes_it(chip, mask, dtype, H, sizes, unit):
    """Nothing spills, products are tensor cores', and copies run ahead; a processor holds as many as it is said to."""
    kernel = triton_kernels_for(chip, "decode", dtype, mask, H, *sizes, unit=unit)["split_forward"]
    assert kernel.threads == 128 and kernel.cp_async > 0
    few, even = sizes[0] < 16, sizes[1] % 8 == 0
    assert kernel.blocks >= (1 if not few else 2 if chip == "a100" or not even else 3), kernel
    loops = [loop for loop in kernel.loops if loop.matmuls]
    assert len(loops) == 2 and (not even or not any(loop.classes.get("global", 0) > 1 for loop in loops))
