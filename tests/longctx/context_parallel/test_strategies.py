"""Strategies x layouts x masks x packing on simulated devices, against the float64 reference; where others go wrong."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longctx import layouts
from longctx.config import MeshConfig
from longctx.context_parallel import api, hops
from longctx.errors import UserError
from pallas_kernels import masks
from pallas_kernels.attention.bias import T5
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo
from tests.helpers import assert_close, one_document, packed, problem, relative_error, slow, tolerance, truth
from tests.longctx.context_parallel import capabilities
from tests.longctx.context_parallel.cut import attend, check, run

STRATEGIES = [name for name in api.STRATEGIES if name != "local"]
ANY_LAYOUT = [name for name in STRATEGIES if name != "lightseq"]
SHARDED_HEADS = ("ulysses", "usp")
QUICK = ["ring", "ulysses", "double_ring", "dispatch"]  # of each kind one


@pytest.mark.parametrize("strategy", slow(*STRATEGIES))
def test_what_a_strategy_can_do_is_what_the_docs_say(strategy):
    cells = capabilities.row(strategy)
    assert capabilities.line(strategy, cells) in capabilities.PAGE.read_text().splitlines(), (
        "python -m tests.longctx.context_parallel.capabilities rewrites the table"
    )


@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.data())
def test_any_combination(data):
    """Odd and composite shard counts, two levels, short shards, documents that end anywhere, rows that see nothing."""
    draw = lambda *values: data.draw(st.sampled_from(values))
    strategy = draw(*STRATEGIES)
    outer, inner = draw((1, 2), (1, 3), (1, 5), (1, 6), (2, 2), (3, 2), (2, 3))
    layout = draw("contiguous", "zigzag", "striped", "striped(2)", "per_document", "balanced")
    if strategy == "lightseq":
        layout = "contiguous"
    mask = draw("causal", "causal & window(9)", "causal & (window(5) | sinks(2))", "causal & chunked(16)")
    length = 2 * outer * inner * draw(1, 5, 8)  # of two pieces each at least
    share = {"ulysses": outer * inner, "usp": inner}.get(strategy, 1)  # divides the query heads
    heads = draw(dict(N=2 * share, K=1), dict(N=2 * share, K=2), dict(N=2 * share, K=2 * share))
    info = packed(data.draw(st.integers(0, 99)), 1, length, mean=draw(3, 30))
    p = problem(data.draw(st.integers(0, 99)), B=1, T=length, H=8, infos=(info, info), **heads)
    check(p, mask, MeshConfig(context_outer=outer, context=inner), layout, strategy=strategy)


@pytest.mark.canary
@pytest.mark.parametrize("strategy", [*QUICK, *slow(*(name for name in STRATEGIES if name not in QUICK))])
def test_lengths_that_do_not_divide_are_padded_inside(strategy):
    shards, length = {"ulysses": (4, 61), "usp": (4, 61)}.get(strategy, (3, 50))
    check(problem(B=1, T=length), "causal", MeshConfig(context=shards), strategy=strategy)


def test_fewer_tokens_than_shards():
    check(problem(B=1, T=3), "causal", MeshConfig(context=4), strategy="ring")


@pytest.mark.canary
@pytest.mark.parametrize("strategy", ["ring", "ulysses", *slow("dispatch")])
def test_all_mesh_axes_at_once(strategy):
    info = packed(1, 4, 32)
    check(
        problem(B=4, T=32, N=4, K=2, infos=(info, info)),
        "causal",
        MeshConfig(data=2, context=2, tensor=2),
        "zigzag",
        strategy=strategy,
    )


@pytest.mark.parametrize(
    "strategy, kernel",
    [
        *((strategy, "reference") for strategy in QUICK),
        *slow(*((strategy, "reference") for strategy in STRATEGIES if strategy not in QUICK), ("ring", "chunked")),
    ],
)
def test_a_learned_bias_gets_its_gradient_from_every_shard(strategy, kernel):
    """T5's params, sharded over the heads, over packed documents."""
    info, bias_params = packed(3, 1, 64), np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    config = MeshConfig(context_outer=2 if strategy in capabilities.TWO_LEVELS else 1, context=2, tensor=2)
    layout = "zigzag" if strategy in ANY_LAYOUT else "contiguous"
    check(
        problem(B=1, T=64, H=8, infos=(info, info)),
        "causal",
        config,
        layout,
        bias_params,
        strategy=strategy,
        kernel=kernel,
        bias=T5(8, 20),
    )


@pytest.mark.parametrize("heads", [dict(N=4, K=1), dict(N=6, K=3), dict(N=12, K=4), dict(N=4, K=4)])
def test_ulysses_deals_any_number_of_key_heads(heads):
    """Shards that divide the query heads are enough: key heads are dealt once, or copied to whoever needs them."""
    shards = {4: 4, 6: 2, 12: 6}[heads["N"]]
    check(problem(B=1, T=48, **heads), "causal", MeshConfig(context=shards), "zigzag", strategy="ulysses")


@pytest.mark.parametrize(
    "strategy, heads, mesh, layout, mask, words",
    [
        (
            "ulysses",
            6,
            MeshConfig(context=4),
            "zigzag",
            "causal",
            ["6 query heads", "4 context shards", "'ring'", "'usp'"],
        ),
        ("usp", 6, MeshConfig(context_outer=2, context=4), "zigzag", "causal", ["6 query heads", "4 context shards"]),
        ("local", 4, MeshConfig(context=4), "zigzag", "causal", ["1 x 4 context shards", "'ring'"]),
        ("lightseq", 4, MeshConfig(context=4), "zigzag", "causal", ["'contiguous'", "'zigzag'"]),
        ("lightseq", 4, MeshConfig(context=4), "contiguous", "full", ["causal masks", "'ring'"]),
    ],
)
def test_refusals_say_what_works(strategy, heads, mesh, layout, mask, words):
    with pytest.raises(UserError) as caught:
        run(problem(B=1, T=64, N=heads, K=2), masks.parse(mask), mesh, layout, strategy=strategy)
    assert all(word in str(caught.value) for word in [*words, strategy]), caught.value


# ---- hops


@pytest.mark.parametrize(
    "mask, layout, shards, both_ways, ahead, back",
    [
        ("causal", "contiguous", 8, False, 7, 0),
        ("causal", "zigzag", 8, False, 7, 0),
        ("causal", "zigzag", 8, True, 4, 3),
        ("full", None, 5, True, 2, 2),
        ("causal & window(16)", "contiguous", 8, False, 1, 0),  # 16 tokens a shard: ceil((w - 1) / n) hops
        ("causal & window(17)", "contiguous", 8, False, 1, 0),
        ("causal & window(18)", "contiguous", 8, False, 2, 0),
        ("causal & window(1)", "contiguous", 8, False, 0, 0),
        ("causal & window(9)", "zigzag", 8, False, 1, 1),  # the piece before lies on a neighbour, either side
        ("causal & window(9)", "striped", 8, False, 7, 0),
        ("causal & chunked(8)", None, 4, False, 3, 0),
        ("causal & window(9) | sinks(2)", "contiguous", 4, False, 3, 0),
    ],
)
def test_hops_that_a_mask_needs(mask, layout, shards, both_ways, ahead, back):
    far = hops.farthest(masks.parse(mask), layout, 16, shards, both_ways)
    assert (far[hops.AHEAD], far.get(hops.BACK, 0)) == (ahead, back)


@pytest.mark.parametrize("strategy, layout", [("ring", "contiguous"), ("bidirectional_ring", "zigzag")])
@pytest.mark.parametrize("ends", [[9, 23, 64], [64], [8, 16, 24, 32, 40, 48, 56, 64], [3, 62, 64], []])
def test_hops_that_documents_need(strategy, layout, ends):
    """Documents that end before, at and after the shards' ends; one over all; none at all: only padding."""
    segments = np.searchsorted(ends, np.arange(64), side="right") + 1 if ends else np.zeros(64)
    starts = np.concatenate([[0], ends])[segments.astype(int) - 1] if ends else 0
    info = TokenInfo(*(jnp.asarray(x, jnp.int32)[None] for x in (np.arange(64) - starts, segments)))
    check(problem(B=1, T=64, H=8, infos=(info, info)), "causal", MeshConfig(context=8), layout, strategy=strategy)


@pytest.mark.parametrize("strategy, outer, layout", [("ring", 1, "contiguous"), ("double_ring", 2, "zigzag")])
def test_keys_that_must_be_far_away_may_be_in_any_block(strategy, outer, layout):
    """Further away than a row (or an inner ring) is long: by positions that are spread out, or in an outer block."""
    info = TokenInfo(3 * jnp.arange(64, dtype=jnp.int32)[None], jnp.ones((1, 64), jnp.int32))
    check(
        problem(B=1, T=64, H=8, infos=(info, info)),
        "causal & beyond(70)",
        MeshConfig(context_outer=outer, context=4 // outer),
        layout,
        strategy=strategy,
    )


# ---- where public implementations fail


@pytest.mark.parametrize("strategy", [*QUICK, *slow(*(name for name in STRATEGIES if name not in QUICK))])
def test_rows_and_shards_that_see_nothing(strategy):
    """A document, two shards of padding, and queries of which no key is near: no NaN, no gradient."""
    segments = jnp.array([[1] * 12 + [0] * 36 + [2] * 16], jnp.int32)
    info = TokenInfo(jnp.arange(64, dtype=jnp.int32)[None], segments)
    p = problem(B=1, T=64, H=8, infos=(info, info))
    out, lse, *grads = run(p, masks.parse("causal & window(5)"), MeshConfig(context=4), strategy=strategy)
    blind = np.asarray(segments[0] == 0)
    assert all(np.all(x[:, blind] == 0) for x in (out, *grads)) and np.isneginf(lse[:, blind]).all()
    spec = AttentionSpec(masks.parse("causal & window(5) & segments"))
    assert_close((out, lse, *grads), truth(p, spec), "float32", 16)


@pytest.mark.parametrize(
    "strategy, most", [("all_gather", 8), ("ring", 16), ("ulysses", 4), *slow(("double_ring", 16), ("dispatch", 8))]
)
def test_bfloat16_error_does_not_grow_with_the_number_of_shards(strategy, most):
    p = problem(T=128, B=1, dtype=jnp.bfloat16)
    want = truth(p, AttentionSpec(masks.Causal()))
    errors = {}
    for shards in (1, 2, most):
        outer = 2 if strategy == "double_ring" and shards > 2 else 1
        got = run(
            p, masks.Causal(), MeshConfig(context_outer=outer, context=shards // outer), "zigzag", strategy=strategy
        )
        errors[shards] = [relative_error(g, w) for g, w in zip(got, want, strict=True)]
    assert max(errors[1]) <= tolerance("bfloat16", 128)
    for shards in (2, most):
        assert all(e <= 1.25 * e1 + 1e-4 for e, e1 in zip(errors[shards], errors[1], strict=True)), errors


@pytest.mark.parametrize("strategy", ["ring", "dispatch", *slow("lightseq", "all_gather")])
def test_gradients_that_travel_in_bfloat16_are_only_rounded(strategy):
    p = problem(B=1, T=64)
    got = run(p, masks.Causal(), MeshConfig(context=4), strategy=strategy, kv_grads_dtype="bfloat16")
    want = truth(p, AttentionSpec(masks.Causal()))
    assert_close(got[:3], want[:3], "float32", 64)
    assert_close(got[3:], want[3:], "bfloat16", 64)
    assert max(relative_error(g, w) for g, w in zip(got[3:], want[3:], strict=True)) > tolerance("float32", 64)


def test_a_kernel_is_only_asked_for_pieces():
    info = packed(2, 1, 32)
    p = problem(B=1, T=32, infos=(info, info))
    one, other = (
        run(p, masks.Causal(), MeshConfig(context=4), "striped", strategy="ring", kernel=kernel)
        for kernel in ("reference", "chunked")
    )
    assert_close(one, other, "float32", 64)


def test_segments_isolate_documents_whatever_the_mask():
    info = packed(9, 1, 40)
    p = problem(B=1, T=40, infos=(info, info))
    out = attend(p.q, p.k, p.v, positions=info.positions, segments=info.segments, mask=masks.Full())
    first = np.asarray(info.segments)[0] == 1
    alone = attend(*(x[:, first] for x in (p.q, p.k, p.v)), mask=masks.Full())
    assert_close(out[:, first], alone, "float32", 40)


def test_unknown_names_name_the_known():
    p = problem(T=8)
    with pytest.raises(UserError, match="'rign' is not known. Did you mean 'ring'.*all_gather"):
        api.attention(p.q, p.k, p.v, strategy="rign")
    with pytest.raises(UserError, match="'zigzg' is not known. Did you mean 'zigzag'"):
        api.attention(p.q, p.k, p.v, layout="zigzg")


def test_one_document_helper_counts_from_its_start():
    assert one_document(1, 3, start=5).positions.tolist() == [[5, 6, 7]]


def test_layouts_of_the_table_are_all_layouts():
    assert set(layouts.LAYOUTS) <= set(capabilities.COLUMNS)
