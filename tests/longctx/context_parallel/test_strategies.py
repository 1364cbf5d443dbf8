"""Strategy x layout x mask x packing on simulated devices, against the float64 reference: values and all gradients."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longctx import layouts, meshes
from longctx.config import MeshConfig
from longctx.context_parallel import api
from longctx.context_parallel.merge import merge, neutral
from longctx.errors import UserError
from pallas_kernels import masks
from pallas_kernels.attention.spec import AttentionSpec
from tests.helpers import assert_close, one_document, packed, problem, relative_error, tolerance, truth

STRATEGIES = [name for name in api.STRATEGIES if name != "local"]
MASKS = ["causal", "full", "causal & window(9)", "causal & (window(5) | sinks(2))", "causal | prefix_lm(20)",
         "causal & chunked(16)"]


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def attend_and_pull(q, k, v, tokens, cotangent, mask, strategy, kernel):
    f = lambda q, k, v: api.attend(q, k, v, positions=tokens.positions, segments=tokens.segments, mask=mask,
                                   strategy=strategy, kernel=kernel, with_lse=True)
    result, pull = jax.vjp(f, q, k, v)
    dout, dlse = cotangent
    return *result, *pull((dout.astype(result[0].dtype), jnp.where(jnp.isfinite(result[1]), dlse, 0.0)))


def run(p, mask, strategy, config, layout="contiguous", kernel="chunked"):
    """(out, lse, dq, dk, dv) over the mesh, the sequence laid out and put back in order."""
    mesh = meshes.make(config)
    T = p.q.shape[1]
    divides = T % config.context == 0
    segments = np.asarray(p.tokens[0].segments)
    order = layouts.permutation(layout, segments, config.context) if divides else np.arange(T)[None]
    laid_out = lambda x: layouts.permute(np.asarray(x), order)
    put = lambda x, spec: jax.device_put(laid_out(x), jax.sharding.NamedSharding(mesh, spec)) if divides else x
    tokens = jax.tree.map(lambda x: put(x, meshes.TOKENS), p.tokens[0])
    q, k, v, dout = (put(x, meshes.HEADS) for x in (p.q, p.k, p.v, p.dout))
    dlse = put(p.dlse, jax.sharding.PartitionSpec(*meshes.HEADS[:3]))
    with jax.set_mesh(mesh):
        results = attend_and_pull(q, k, v, tokens, (dout, dlse), mask, strategy, kernel)
    return [layouts.permute(np.asarray(x), layouts.inverse(order)) for x in results]


def check(p, mask, strategy, config, layout="contiguous", dtype="float32", terms=64):
    got = run(p, masks.parse(mask), strategy, config, layout)
    spec = AttentionSpec(masks.parse(mask) & masks.Segments(), block=16)
    assert_close(got, truth(p, spec), dtype, terms, f"{strategy} {layout} {mask} {config}")


@pytest.mark.canary
@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shards", [4, 8])
def test_packed_causal(strategy, layout, shards):
    tokens = packed(shards, 2, 64, mean=20)
    check(problem(T=64, tokens=(tokens, tokens)), "causal", strategy, MeshConfig(context=shards), layout)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.data())
def test_any_combination(data):
    strategy, layout = data.draw(st.sampled_from(STRATEGIES)), data.draw(st.sampled_from(list(layouts.LAYOUTS)))
    shards = data.draw(st.sampled_from([2, 3, 4, 5, 6]))
    length = 2 * shards * data.draw(st.sampled_from([1, 5, 8]))
    heads = data.draw(st.sampled_from([dict(N=2, K=1), dict(N=4, K=2), dict(N=2, K=2)]))
    tokens = packed(data.draw(st.integers(0, 99)), 1, length, mean=data.draw(st.sampled_from([3, 30])))
    p = problem(data.draw(st.integers(0, 99)), B=1, T=length, H=8, tokens=(tokens, tokens), **heads)
    check(p, data.draw(st.sampled_from(MASKS)), strategy, MeshConfig(context=shards), layout)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shards, length", [(3, 50), (5, 61), (4, 3)])
def test_lengths_that_do_not_divide_are_padded_inside(strategy, shards, length):
    check(problem(T=length), "causal", strategy, MeshConfig(context=shards))


@pytest.mark.canary
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_mesh_axes_at_once(strategy):
    tokens = packed(1, 4, 32)
    check(problem(B=4, T=32, N=4, K=2, tokens=(tokens, tokens)), "causal", strategy,
          MeshConfig(data=2, context=2, tensor=2), "zigzag")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16_error_does_not_grow_with_the_number_of_shards(strategy):
    p = problem(T=128, B=1, dtype=jnp.bfloat16)
    want = truth(p, AttentionSpec(masks.Causal()))
    errors = {}
    for shards in (1, 2, 8):
        got = run(p, masks.Causal(), strategy, MeshConfig(context=shards), "zigzag")
        errors[shards] = [relative_error(g, w) for g, w in zip(got, want, strict=True)]
    assert max(errors[1]) <= tolerance("bfloat16", 128)
    for shards in (2, 8):
        assert all(e <= 1.25 * e1 + 1e-4 for e, e1 in zip(errors[shards], errors[1], strict=True)), errors


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reference_and_chunked_kernels_agree_under_a_strategy(strategy):
    tokens = packed(2, 1, 32)
    p = problem(B=1, T=32, tokens=(tokens, tokens))
    one, other = (run(p, masks.Causal(), strategy, MeshConfig(context=4), "striped", kernel)
                  for kernel in ("reference", "chunked"))
    assert_close(one, other, "float32", 64)


def test_attend_without_a_mesh_and_eagerly():
    p = problem(T=40)
    out, lse = api.attend(p.q, p.k, p.v, mask=masks.Causal(), with_lse=True)
    assert_close((out, lse), truth(p, AttentionSpec(masks.Causal()))[:2], "float32", 40)


def test_segments_isolate_documents_whatever_the_mask():
    tokens = packed(9, 1, 40)
    p = problem(B=1, T=40, tokens=(tokens, tokens))
    out = api.attend(p.q, p.k, p.v, positions=tokens.positions, segments=tokens.segments, mask=masks.Full())
    first = np.asarray(tokens.segments)[0] == 1
    alone = api.attend(*(x[:, first] for x in (p.q, p.k, p.v)), mask=masks.Full())
    assert_close(out[:, first], alone, "float32", 40)


def test_unknown_strategy_names_the_known():
    p = problem(T=8)
    with pytest.raises(UserError, match="'rign' is not known. Did you mean 'ring'.*all_gather"):
        api.attend(p.q, p.k, p.v, strategy="rign")


def test_merge_with_nothing_changes_nothing():
    p = problem(T=8)
    pair = api.attend(p.q, p.k, p.v, with_lse=True)
    assert_close(merge(pair, neutral(p.q)), pair, "float32", 1)
    out, lse = merge(neutral(p.q), neutral(p.q))
    assert not np.asarray(out).any() and np.isneginf(lse).all()


def test_one_document_helper_counts_from_its_start():
    assert one_document(1, 3, start=5).positions.tolist() == [[5, 6, 7]]
