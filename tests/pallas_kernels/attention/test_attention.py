"""The definition and plain JAX as every kernel, the public function, and what holds for all implementations."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.attention import api, chunked, decode, reference
from pallas_kernels.attention.pair import Inputs, Pair, merge, neutral, row_stats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import Causal, TokenInfo
from pallas_kernels.testing import BIASES, MASKS, SHAPES, KernelCases, Sizes, seen_dlse
from tests.helpers import assert_close, later, mask_cases, packed, problem, results, slow

HALVED = ("sinks", "bfloat16"), ("packed_prefix_window", "bfloat16")


class TestReference(KernelCases):
    """By itself in float64; the rest is said by its autodiff, below."""

    kernel = "reference"
    cuts = (2, *slow(5))
    test_masks = test_shapes = test_scale_and_soft_cap = test_biases = test_blocks_of_its_own_choice = None
    test_empty_blocks_are_not_visited = None  # it visits all


class TestChunked(KernelCases):
    kernel = "chunked"
    cuts = (2, *slow(5))

    @pytest.mark.parametrize("mask, dtype", mask_cases(*HALVED, rest=slow))
    def test_masks(self, mask, dtype):
        super().test_masks(mask, dtype)

    @pytest.mark.parametrize("shape", later(SHAPES, "mha", "gqa", "few_queries"))
    def test_shapes(self, shape):
        super().test_shapes(shape)

    @pytest.mark.parametrize("dtype", ["float32", *slow("bfloat16")])
    def test_biases(self, bias, dtype):
        super().test_biases(bias, dtype)


class TestDecode(KernelCases):
    kernel = "decode"
    sizes = Sizes(T=decode.QUERIES)
    cuts = (2, *slow(5))
    shapes = {
        "mha": dict(T=1, S=40, N=4, K=4),
        "mqa": dict(T=3, S=40, N=4, K=1),
        "gqa": dict(T=5, S=7, N=6, K=3, H=8),
        "one_token": dict(T=1, S=1),
        "long": dict(T=2, S=700, B=1),
    }
    test_blocks_of_its_own_choice = test_empty_blocks_are_not_visited = None  # it has no blocks

    @pytest.mark.parametrize("mask, dtype", mask_cases(*HALVED))
    def test_masks(self, mask, dtype):
        super().test_masks(mask, dtype)

    @pytest.mark.parametrize("dtype", ["float32", *slow("bfloat16")])
    def test_biases(self, bias, dtype):
        super().test_biases(bias, dtype)

    def test_more_queries_go_to_another(self):
        x = problem(T=decode.QUERIES + 1).inputs()
        assert "up to 16 queries" in decode.why_not(x, AttentionSpec(), "cpu")
        assert api.select("auto", x, AttentionSpec(), "cpu") is chunked
        assert api.select("auto", x._replace(q=x.q[:, :1]), AttentionSpec(), "cpu") is decode


@pytest.mark.parametrize("name", api.IMPLEMENTATIONS)
def test_every_implementation_inherits_the_cases(name):
    files = pathlib.Path(__file__).parent.rglob("test_*.py")
    assert any(
        "(KernelCases):\n" in text and f'    kernel = "{name}"\n' in text for text in map(pathlib.Path.read_text, files)
    )


def test_reference_backward_is_its_autodiff():
    for (name, mask), (bias, params, _) in zip(MASKS.items(), itertools.cycle(BIASES.values()), strict=False):
        info = packed(5, 2, 30)
        p, spec = problem(4, T=30, N=6, infos=(info, info)), AttentionSpec(mask, soft_cap=3.0, bias=bias)
        f = lambda q, k, v, params, p=p, spec=spec: reference.forward(Inputs(q, k, v, p.q_info, p.k_info, params), spec)
        pair, pull = jax.vjp(f, p.q, p.k, p.v, params)
        cotangent = Pair(p.dout, seen_dlse(pair.lse, p.dlse))
        want = pull(cotangent)
        got = reference.backward(p.inputs(params), spec, row_stats(pair, cotangent))
        assert_close(got, want, "float32", 100, name)


def test_memory_is_linear_in_length():
    def temporary(T):
        p = jax.eval_shape(lambda: problem(T=2048, B=1, N=2, K=1))
        p = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape[:1], T, *x.shape[2:]), x.dtype), p)
        f = lambda p: results(p, AttentionSpec(Causal(), block=128), "chunked")
        return jax.jit(f).lower(p).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8192) <= 4.5 * temporary(2048)


def test_an_explicit_choice_never_falls_back_and_errors_say_what_works():
    p = problem()
    with pytest.raises(ValueError, match="'chunkd' is not known. Known: auto, reference, chunked, decode, tpu"):
        api.attention(p.inputs(), AttentionSpec(), "chunkd")
    with pytest.raises(ValueError, match="key heads must divide query heads"):
        api.attention(p.inputs()._replace(q=p.q[:, :, :3]), AttentionSpec())


@pytest.mark.parametrize(
    "implementation",
    ["reference", "chunked", "decode", "tpu", "tpu_decode", "mosaic_gpu", "jax_triton", "triton_decode", "cudnn"],
)
def test_what_inputs_have_room_for_is_refused_until_somebody_takes_it(implementation):
    by_head = TokenInfo(*[jnp.ones((2, 50, 2), jnp.int32)] * 2)
    x, why_not = problem(T=8, S=50).inputs(), api.IMPLEMENTATIONS[implementation].why_not
    assert "choice of blocks" in why_not(x._replace(keep=jnp.ones((2, 2, 4, 4), bool)), AttentionSpec(), "cpu")
    assert "for all heads" in why_not(x._replace(k_info=by_head), AttentionSpec(), "cpu")


def test_vmap_and_remat_and_scan():
    p, spec = problem(B=2), AttentionSpec(Causal(), block=16)
    attend = jax.jit(lambda q: api.attention(p.inputs()._replace(q=q), spec).out)
    mapped = jax.jit(jax.vmap(lambda x: api.attention(x, spec).out))(jax.tree.map(lambda a: a[:, None], p.inputs()))
    assert_close(mapped[:, 0], attend(p.q), "float32", 50)
    body = jax.checkpoint(lambda q, _: (attend(q), None))
    g = jax.jit(jax.grad(lambda q: jax.lax.scan(body, q, None, length=2)[0].sum()))(p.q)
    assert_close(g, jax.jit(jax.grad(lambda q: attend(attend(q)).sum()))(p.q), "float32", 50)


def test_merge_with_nothing_changes_nothing():
    p = problem(T=8)
    pair, nothing = jax.jit(lambda x: (reference.forward(x, AttentionSpec()), neutral(x.q)))(p.inputs())
    assert_close(jax.jit(merge)(pair, nothing), pair, "float32", 1)
    out, lse = jax.jit(merge)(nothing, nothing)
    assert not np.asarray(out).any() and np.isneginf(lse).all()
