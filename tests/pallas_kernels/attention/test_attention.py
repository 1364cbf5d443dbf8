"""Every implementation x mask x dtype x head grouping against the float64 reference: values and all gradients."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.attention import api, reference
from pallas_kernels.attention.bias import T5, Alibi, alibi_slopes
from pallas_kernels.attention.pair import Inputs, Pair, merge, neutral, row_stats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import (
    Beyond,
    Causal,
    Chunked,
    ChunksBefore,
    Full,
    PrefixLM,
    Segments,
    Sinks,
    TokenInfo,
    Window,
)
from tests.helpers import assert_close, input_types, one_document, packed, problem, slow, truth

_SMALL = jax.ShapeDtypeStruct((1, 16, 2, 16), jnp.float32)
_TYPES = input_types(_SMALL, _SMALL)
HERE = [name for name, of in api.IMPLEMENTATIONS.items() if not of.why_not(_TYPES, AttentionSpec(), "cpu")]
FAST = [name for name in HERE if name != "reference"]
MASKS = {
    "causal": Causal(),
    "full": Full(),
    "window": Causal() & Window(9),
    "sinks": Causal() & (Window(7) | Sinks(3)),
    "prefix": Causal() | PrefixLM(11),
    "chunked": Causal() & Chunked(13),
    "packed": Causal() & Segments(),
    "beyond": Causal() & Beyond(9) & Sinks(20),
    "chunks_before": Causal() & ChunksBefore(13, 1, 2),
    "packed_prefix_window": (Causal() & Window(6) | PrefixLM(4)) & Segments(),
}
_T5_PARAMS = np.random.default_rng(8).standard_normal((6, 8)).astype(np.float32)
BIASES = {  # name -> bias, params of 6 heads, mask
    "alibi": (Alibi(), alibi_slopes(6), Causal() & Segments()),
    "t5": (T5(8, 20), _T5_PARAMS, Causal() & Segments()),
    "t5_bidirectional": (T5(8, 9, bidirectional=True), _T5_PARAMS, Segments()),
}
SMALLEST = {"tpu": 128}  # block sizes; 16 where nothing else is said


def few_blocks(implementation):
    """(tokens, tokens per block): four blocks, the last one nearly empty."""
    block = SMALLEST.get(implementation, 16)
    return 3 * block + 2, block


@functools.partial(jax.jit, static_argnums=(1, 2))
def run(p, spec, implementation, *bias_params):
    """(out, lse, dq, dk, dv) through autodiff of the public function, and dbias, given bias_params.

    No gradient flows into lse = -inf.
    """

    def f(q, k, v, *bias_params):
        return api.attention(Inputs(q, k, v, p.q_info, p.k_info, *bias_params), spec, implementation)

    pair, pull = jax.vjp(f, p.q, p.k, p.v, *bias_params)
    return *pair, *pull(Pair(p.dout.astype(pair.out.dtype), jnp.where(jnp.isfinite(pair.lse), p.dlse, 0.0)))


def piece_by_piece(p, spec, implementation, *pieces):
    """The pair that goes on from piece to piece of the keys. pieces: (start, end) of each."""
    module, partial = api.IMPLEMENTATIONS[implementation], dataclasses.replace(spec, partial=True)

    @jax.jit
    def forward(p, pair=None):
        for start, end in pieces:
            pair = module.forward(keys_from(p.inputs(), start, end), partial, pair)
        return pair

    return forward(p)


def keys_from(x, start, end):
    """Inputs of the keys from `start` to `end` alone."""
    k, v, k_info = jax.tree.map(lambda y: y[:, start:end], (x.k, x.v, x.k_info))
    return x._replace(k=k, v=v, k_info=k_info)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("implementation", FAST)
def test_masks(implementation, name, dtype):
    T, block = few_blocks(implementation)
    info = packed(3, 2, T, mean=T // 4) if "packed" in name else one_document(2, T)
    p, spec = problem(T=T, dtype=dtype, infos=(info, info)), AttentionSpec(MASKS[name], block=block)
    assert_close(run(p, spec, implementation), truth(p, spec), dtype, T, name)


@pytest.mark.parametrize(
    "shape",
    [
        dict(N=4, K=4),
        dict(N=4, K=1),
        dict(N=6, K=3, H=8),
        dict(T=1, S=1),
        dict(T=7, S=33),
        dict(T=33, S=7),
        dict(T=64, H=128, B=1),
    ],
)
@pytest.mark.parametrize("implementation", FAST)
def test_shapes(implementation, shape):
    p, spec = problem(1, **shape), AttentionSpec(Causal(), block=16)
    assert_close(run(p, spec, implementation), truth(p, spec), "float32", 64)


@pytest.mark.parametrize("implementation", FAST)
def test_bfloat16_in_a_single_block(implementation):
    """Loops of one step are inlined; XLA's CPU compiler has no bfloat16 matmul for some operand orders this exposes."""
    p, spec = problem(B=1, T=64, dtype=jnp.bfloat16), AttentionSpec(Causal())
    assert_close(run(p, spec, implementation), truth(p, spec), "bfloat16", 64)


@pytest.mark.canary
@pytest.mark.parametrize("implementation", FAST)
def test_scale_and_soft_cap(implementation):
    p, spec = problem(2), AttentionSpec(Causal(), scale=0.7, soft_cap=2.0, block=16)
    assert_close(run(p, spec, implementation), truth(p, spec), "float32", 50)


@pytest.mark.parametrize("dtype", ["float32", *slow("bfloat16")])
@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("implementation", ["chunked"])
def test_biases(implementation, name, dtype):
    """Per head, over packed documents, with a soft cap; the params have a gradient."""
    info, (bias, params, mask) = packed(4, 2, 50), BIASES[name]
    p, spec = problem(3, N=6, K=3, dtype=dtype, infos=(info, info)), AttentionSpec(mask, None, bias, 4.0, block=16)
    assert_close(run(p, spec, implementation, jnp.asarray(params)), truth(p, spec, params), dtype, 50)


@pytest.mark.canary
@pytest.mark.parametrize("implementation", HERE)
def test_rows_that_see_nothing(implementation):
    """Keys far ahead of every query, queries of a segment that no key has, padding, and whole rows of them."""
    q_segments = jnp.array([[1] * 15 + [2] * 20 + [0] * 5, [0] * 40], jnp.int32)
    q_info = TokenInfo(jnp.arange(40, dtype=jnp.int32)[None].repeat(2, 0), q_segments)
    k_info = TokenInfo(q_info.positions + 5, jnp.ones((2, 40), jnp.int32))
    p, spec = problem(T=40, infos=(q_info, k_info)), AttentionSpec(Causal() & Segments(), block=16)
    out, lse, dq, dk, dv = run(p, spec, implementation)
    blind = np.ones((2, 40), bool)
    blind[0, 5:15] = False
    assert np.all(np.asarray(out)[blind] == 0) and np.all(np.asarray(dq)[blind] == 0)
    assert np.array_equal(np.isneginf(lse).all(-1), blind)
    assert np.all(np.asarray(dk)[1] == 0) and np.all(np.asarray(dv)[1] == 0) and np.all(np.asarray(dk)[0, 10:] == 0)
    assert_close((out, lse, dq, dk, dv), truth(p, spec), "float32", 40)


def test_reference_backward_is_its_autodiff():
    for (name, mask), (bias, params, _) in zip(MASKS.items(), itertools.cycle(BIASES.values()), strict=False):
        info = packed(5, 2, 30)
        p, spec = problem(4, T=30, N=6, infos=(info, info)), AttentionSpec(mask, soft_cap=3.0, bias=bias)
        f = lambda q, k, v, params, p=p, spec=spec: reference.forward(Inputs(q, k, v, p.q_info, p.k_info, params), spec)
        pair, pull = jax.vjp(f, p.q, p.k, p.v, params)
        cotangent = Pair(p.dout, jnp.where(jnp.isfinite(pair.lse), p.dlse, 0.0))
        want = pull(cotangent)
        got = reference.backward(p.inputs(params), spec, row_stats(pair, cotangent))
        assert_close(got, want, "float32", 100, name)


@pytest.mark.parametrize("cuts, dtype", [(2, "float32"), (2, "bfloat16"), *slow((5, "float32"))])
@pytest.mark.parametrize("implementation", HERE)
def test_cut_keys(implementation, cuts, dtype):
    """Forward goes on from piece to piece; some rows see keys of one piece only, or of none.

    Gradients of pieces, each from the global RowStats, are the pieces of the gradient; dq is their sum.
    """
    info = packed(7, 2, 50)
    p = problem(6, dtype=dtype, infos=(info, info))
    spec = AttentionSpec(Causal() & Segments(), partial=True, block=16)
    pieces = [(piece[0], piece[-1] + 1) for piece in np.array_split(range(50), cuts)]
    pair = piece_by_piece(p, spec, implementation, *pieces)
    stats, dq, dks, dvs = row_stats(pair, (p.dout, None)), 0.0, [], []
    for start, end in pieces:
        grads = api.IMPLEMENTATIONS[implementation].backward(keys_from(p.inputs(), start, end), spec, stats)
        dq, dks, dvs = dq + grads.dq, [*dks, grads.dk], [*dvs, grads.dv]
    want = truth(p._replace(dlse=jnp.zeros_like(p.dlse)), spec)
    assert_close((*pair, dq, jnp.concatenate(dks, 1), jnp.concatenate(dvs, 1)), want, dtype, 50)


def test_partial_results_are_float32_for_bfloat16_inputs():
    p = problem(dtype=jnp.bfloat16)
    spec = AttentionSpec(partial=True)
    pair = api.IMPLEMENTATIONS["chunked"].forward(p.inputs(), spec)
    grads = api.IMPLEMENTATIONS["chunked"].backward(p.inputs(), spec, row_stats(pair, (p.dout, None)))[:3]
    assert [x.dtype for x in (*pair, *grads)] == [jnp.float32] * 5


def test_memory_is_linear_in_length():
    def temporary(T):
        p = jax.eval_shape(lambda: problem(T=2048, B=1, N=2, K=1))
        p = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape[:1], T, *x.shape[2:]), x.dtype), p)
        f = lambda p: run(p, AttentionSpec(Causal(), block=128), "chunked")
        return jax.jit(f).lower(p).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8192) <= 4.5 * temporary(2048)


@pytest.mark.parametrize("implementation", FAST)
def test_empty_blocks_are_not_visited(implementation):
    """NaN in keys that no query may see must not reach anything: a block that is skipped is never multiplied."""
    block = few_blocks(implementation)[1]
    T, start = 4 * block, 100 * block
    p, spec = problem(T=T, B=1), AttentionSpec(Causal() & Window(block), block=block)
    q_info = one_document(1, T, start)
    far, near = jnp.arange(T // 2), jnp.arange(start - 10, start - 10 + T // 2)
    k_info = TokenInfo(jnp.concatenate([far, near]).astype(jnp.int32)[None], q_info.segments)
    unseen = lambda x: x.at[:, : T // 2].set(jnp.nan)
    bad = p._replace(k=unseen(p.k), v=unseen(p.v), q_info=q_info, k_info=k_info)
    out, lse, dq, dk, dv = run(bad, spec, implementation)
    assert all(np.isfinite(x).all() for x in (out, dq, dk, dv)) and not np.isnan(lse).any()


def test_an_explicit_choice_never_falls_back_and_errors_say_what_works():
    p = problem()
    with pytest.raises(ValueError, match="'chunkd' is not known. Known: auto, reference, chunked, tpu"):
        api.attention(p.inputs(), AttentionSpec(), "chunkd")
    with pytest.raises(ValueError, match="key heads must divide query heads"):
        api.attention(p.inputs()._replace(q=p.q[:, :, :3]), AttentionSpec())


@pytest.mark.parametrize("implementation", ["reference", "chunked", "tpu", "mosaic_gpu", "jax_triton", "cudnn"])
def test_what_inputs_have_room_for_is_refused_until_somebody_takes_it(implementation):
    by_head = TokenInfo(*[jnp.ones((2, 50, 2), jnp.int32)] * 2)
    x, why_not = problem().inputs(), api.IMPLEMENTATIONS[implementation].why_not
    assert "choice of blocks" in why_not(x._replace(keep=jnp.ones((2, 2, 4, 4), bool)), AttentionSpec(), "cpu")
    assert "for all heads" in why_not(x._replace(k_info=by_head), AttentionSpec(), "cpu")


def test_vmap_and_remat_and_scan():
    p, spec = problem(B=2), AttentionSpec(Causal(), block=16)
    attend = lambda q: api.attention(p.inputs()._replace(q=q), spec).out
    mapped = jax.vmap(lambda x: api.attention(x, spec).out)(jax.tree.map(lambda a: a[:, None], p.inputs()))
    assert_close(mapped[:, 0], attend(p.q), "float32", 50)
    body = jax.checkpoint(lambda q, _: (attend(q), None))
    g = jax.grad(lambda q: jax.lax.scan(body, q, None, length=2)[0].sum())(p.q)
    assert_close(g, jax.grad(lambda q: attend(attend(q)).sum())(p.q), "float32", 50)


def test_merge_with_nothing_changes_nothing():
    p = problem(T=8)
    pair, nothing = reference.forward(p.inputs(), AttentionSpec()), neutral(p.q)
    assert_close(merge(pair, nothing), pair, "float32", 1)
    out, lse = merge(nothing, nothing)
    assert not np.asarray(out).any() and np.isneginf(lse).all()
