"""Attention by cuDNN, which no CPU has: its calls are replaced by their definition, to test what is around them."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longctx.config import MeshConfig
from pallas_kernels import cudnn_call, gpu_chips, masks, select
from pallas_kernels.attention import api, reference
from pallas_kernels.attention import cudnn as gpu_cudnn
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, row_stats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import Causal, Full, TokenInfo, Window
from pallas_kernels.testing import KernelCases
from tests.helpers import (
    NEEDS_CUDA_COMPILER,
    assert_close,
    input_types,
    nightly,
    one_document,
    packed,
    problem,
    results,
    slow,
    truth,
    worker_lines,
)
from tests.longctx.context_parallel import cut


def _by_places(q, k, v, scores):
    """(inputs, spec) with which reference.py does as cuDNN does."""
    places = lambda x: one_document(*x.shape[:2])
    mask = (Causal() if scores.causal else Full()) & (Window(scores.window) if scores.window else Full())
    return Inputs(q, k, v, places(q), places(k)), AttentionSpec(mask, scores.scale)


def _forward(q, k, v, scores):
    out, lse = reference.forward(*_by_places(q, k, v, scores))
    return out, lse.swapaxes(1, 2)


def _backward(q, k, v, lse, out, dout, scores):
    assert out.dtype == dout.dtype == q.dtype
    delta = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)
    stats = RowStats(dout, lse.swapaxes(1, 2), delta)
    return reference.backward(*_by_places(q, k, v, scores), stats)[:3]


def _never(x, spec):
    """An implementation whose results are seen wherever they get to."""
    spoilt = lambda *arrays: tuple(jnp.full_like(y, jnp.nan, spec.result_dtype(y)) for y in arrays)
    return types.SimpleNamespace(
        forward=lambda x, *_: Pair(*spoilt(x.q), jnp.full_like(x.q[..., 0], jnp.nan, jnp.float32)),
        backward=lambda x, *_: Grads(*spoilt(*x[:3])),
    )


@pytest.fixture(autouse=True)
def no_other(monkeypatch):
    """Other kernels for GPUs do not run here."""
    monkeypatch.setitem(api.PREFERENCE, (9, 0), ("cudnn", "chunked"))


@pytest.fixture
def here(monkeypatch):
    """An H100, simulated. Called with a function for calls that cuDNN cannot do, it replaces the present one."""
    monkeypatch.setattr(cudnn_call, "forward", _forward)
    monkeypatch.setattr(cudnn_call, "backward", _backward)
    monkeypatch.setattr(gpu_chips, "capability", lambda: (9, 0))
    monkeypatch.setattr(select, "traced_platform", lambda: "gpu")
    jax.clear_caches()
    yield lambda otherwise: monkeypatch.setitem(api.IMPLEMENTATIONS, "cudnn", gpu_cudnn.Cudnn(otherwise))
    jax.clear_caches()


@pytest.mark.parametrize(
    "mask, dtype",
    [
        ("causal", "bfloat16"),
        ("causal & window(20) & window(9) & segments", "float16"),
        *slow(("full", "float16"), ("segments", "bfloat16"), ("causal & segments", "float16")),
    ],
)
def test_one_document_is_all_cudnns(mask, dtype, here):
    here(_never)
    info = one_document(2, 40, start=100)
    p, spec = problem(T=40, dtype=dtype, infos=(info, info)), AttentionSpec(masks.parse(mask), scale=0.3)
    assert_close(results(p, spec, "cudnn"), truth(p, spec), dtype, 40)


@pytest.mark.usefixtures("here")
class TestSimulated(KernelCases):
    kernel = "cudnn"
    dtypes = ("bfloat16",)
    test_shapes = test_blocks_of_its_own_choice = None  # as cuDNN has them
    test_empty_blocks_are_not_visited = None  # it multiplies all within a half

    @pytest.mark.parametrize("mask", ["causal & segments", *slow("full", "causal & window(9)")])
    def test_masks(self, mask):
        """Of packed documents, which another kernel does; those that are all cuDNN's are above."""
        self.check(self.problem(infos=self.packed(3)), AttentionSpec(masks.parse(mask), block=self.block))


def _some_tokens(rng, T):
    """One row: a stretch of a document, its halves from anywhere, strided, standing still, packed, or with padding."""
    start, stride = rng.integers(0, 3 * T), rng.integers(1, 4)
    line = np.arange(T) + start
    halves = np.concatenate([np.arange(T // 2) + T // 2 * rng.integers(0, 6) for _ in range(2)])
    positions = [line, line, halves, halves, stride * np.arange(T) + rng.integers(0, stride), line // 2, line % 3]
    segments = np.ones(T, int)
    kind = rng.integers(0, 4)
    if kind == 1:
        segments = segments + (np.arange(T) >= rng.integers(1, T))
    elif kind == 2:
        segments = segments * (np.arange(T) < rng.integers(0, T))
    return positions[rng.integers(0, len(positions))], segments


@pytest.mark.parametrize("mask", ["causal & window(20)", *slow("causal & segments", "causal", "full", "segments")])
def test_whatever_tokens_look_like(mask, here):
    """Wrong answers would come from a pair that is taken for one that cuDNN can do."""
    here(lambda *call: reference)
    T, rng, spec = 8, np.random.default_rng(1), AttentionSpec(masks.parse(mask), partial=True)
    p = problem(T=T, B=2, N=2, K=1, dtype="bfloat16")
    implementation, taken = api.IMPLEMENTATIONS["cudnn"], set()
    matches = jax.jit(lambda *infos: gpu_cudnn._matches(spec.mask, *infos))
    both = [
        jax.jit(lambda x, stats, of=of: (of.forward(x, spec), of.backward(x, spec, stats)))
        for of in (implementation, reference)
    ]

    @jax.jit
    def finite_stats(pair):
        stats = row_stats(pair, (p.dout, p.dlse))
        return stats._replace(delta=jnp.where(jnp.isfinite(stats.lse), stats.delta, 0.0))

    for _ in range(200):
        sides = [_some_tokens(rng, T) for _ in range(4)]
        sides[rng.integers(0, 2)] = sides[0]  # often the same in both rows
        if rng.random() < 0.5:
            sides[2:] = sides[:2]  # or of queries and keys
        infos = tuple(
            TokenInfo(*(jnp.array(x, jnp.int32) for x in zip(*side, strict=True))) for side in (sides[:2], sides[2:])
        )
        taken.add([*map(bool, matches(*infos)), True].index(True))
        x = p._replace(q_info=infos[0], k_info=infos[1]).inputs()
        stats = finite_stats(both[1](x, RowStats(p.dout, p.dlse, p.dlse))[0])
        got, want = (f(x, stats) for f in both)
        assert_close(got, want, "bfloat16", T, str(infos))
    assert taken >= {0, 2, 5} | ({1} if "causal" in mask else set())


@pytest.mark.parametrize(
    "strategy, shards, layout",
    [
        ("ring", 4, "zigzag"),
        *slow(("ring", 4, "contiguous"), ("ulysses", 2, "contiguous")),
        *nightly(("token_ring", 4, "zigzag"), ("ring", 8, "zigzag")),
    ],
)
def test_every_hop_over_one_document_is_cudnns(strategy, shards, layout, here):
    here(_never)
    info = one_document(1, 64)
    p = problem(B=1, T=64, N=4, K=2, dtype="bfloat16", infos=(info, info))
    cut.check(p, "causal", MeshConfig(context=shards), layout, strategy=strategy, kernel="cudnn", terms=64)


@pytest.mark.parametrize("layout", [*slow("zigzag"), *nightly("contiguous", "striped")])
def test_a_ring_over_packed_documents(layout, here):
    info = packed(2, 1, 64, mean=40)
    p = problem(B=1, T=64, N=4, K=2, dtype="bfloat16", infos=(info, info))
    cut.check(p, "causal & window(30)", MeshConfig(context=4), layout, strategy="ring", kernel="cudnn", terms=64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("dout, dlse", [(1, 0), (1, 1), (1e-3, 1), (0, 1), (0, 1e-3), (1e-6, 1e-6), (0, 0)])
def test_delta_is_had_from_out(dtype, dout, dlse):
    """To an epsilon of itself, and what is added to dout is less than rounding delta could be."""
    p = problem(T=100, H=64, dtype="float32")
    given = jnp.asarray(dout * p.dout, dtype)
    stats = row_stats(Pair(0.3 * p.v[:, :, jnp.arange(4) // 2], None), (given, dlse * p.dlse))
    out, moved = (np.asarray(x, np.float64) for x in gpu_cudnn.for_delta(stats, jnp.dtype(dtype)))
    delta = np.asarray(stats.delta, np.float64)
    eps, least = (float(getattr(jnp.finfo(dtype), x)) for x in ("eps", "smallest_subnormal"))
    assert np.all(np.abs((out * moved).sum(-1) - delta) <= eps * np.abs(delta))
    added = np.abs(moved - np.asarray(given, np.float64)).max(-1)
    assert np.all(added <= np.maximum(eps / 8 * np.abs(delta), least))


def test_rounded_parts_add_up(here):
    """Eight parts, each rounded to bfloat16, have together no more than the error of rounding once."""
    here(_never)
    p, spec = problem(B=1, T=64, S=512, N=2, K=1, H=64, dtype="bfloat16"), AttentionSpec(Full(), partial=True)
    module = api.IMPLEMENTATIONS["cudnn"]

    @jax.jit
    def summed(p):
        parts = tuple(jnp.stack(jnp.split(x, 8, 1)) for x in (p.k, p.v))
        of = lambda part: Inputs(p.q, *part, p.q_info, p.q_info)
        pair = module.forward(of(x[0] for x in parts), spec)
        rest = tuple(x[1:] for x in parts)
        pair, _ = jax.lax.scan(lambda pair, part: (module.forward(of(part), spec, pair), None), pair, rest)
        stats = row_stats(pair, (p.dout, p.dlse))
        return *pair, jax.lax.map(lambda part: module.backward(of(part), spec, stats).dq, parts).sum(0)

    assert_close(summed(p), truth(p, spec)[:3], "bfloat16", 512)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(platform="cpu"), "runs on NVIDIA GPUs"),
        (dict(capability=None), "runs on NVIDIA GPUs"),
        (dict(capability=(7, 5)), "8.0 and later"),
        (dict(dtype="float32"), "float32"),
        (dict(H=256, capability=(8, 0)), "up to 128"),
        (dict(H=256, capability=(10, 0)), "up to 128"),
        (dict(H=256), None),
        (dict(H=60), "multiples of 8"),
        (dict(bias=Alibi()), "no bias"),
        (dict(soft_cap=30.0), "no soft cap"),
        (dict(S=64), "as many queries as keys"),
        (dict(T=33, S=33), "even number"),
        (dict(mask="window(5)"), "not Window"),
        (dict(mask="causal | sinks(4)"), "not Or"),
        (dict(mask="causal & chunked(8)"), "not And"),
        (dict(mask="causal & window(5) & segments"), None),
    ],
)
def test_why_not_says_why(change, words, monkeypatch):
    about = dict(T=32, S=32, H=64, dtype="bfloat16", mask="causal", platform="gpu", capability=(9, 0)) | change
    monkeypatch.setattr(gpu_chips, "capability", lambda: about["capability"])
    q, k = (jax.ShapeDtypeStruct((1, about[length], 2, about["H"]), about["dtype"]) for length in "TS")
    spec = AttentionSpec(masks.parse(about["mask"]), **{x: about[x] for x in ("bias", "soft_cap") if x in about})
    reason = api.IMPLEMENTATIONS["cudnn"].why_not(input_types(q, k), spec, about["platform"])
    assert reason is None if words is None else words in reason


@pytest.mark.canary
def test_jax_has_what_is_called():
    """Its private names, and the custom calls that they become, with no compiler."""
    q, k = (jax.ShapeDtypeStruct((1, 64, heads, 64), jnp.bfloat16) for heads in (4, 2))

    def grad(x, dout):
        spec = AttentionSpec(Causal() & Window(9))
        f = lambda *arrays: api.attention(Inputs(*arrays, x.q_info, x.k_info), spec, "cudnn").out
        return jax.vjp(f, x.q, x.k, x.v)[1](dout)

    with gpu_chips.target("h200"):
        text = jax.jit(grad).trace(input_types(q, k), q).lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"@__cudnn\$fmhaSoftmax(\w*)\(", text)
    assert [calls.count(way) for way in ("", "Backward")] == [len(gpu_cudnn._CASES)] * 2
    assert text.count("sliding_window_length\\22: 9,") == 2  # of tokens in places, of both ways


@NEEDS_CUDA_COMPILER
@pytest.mark.parametrize(
    "chip, dtype, head_dim",
    [
        *slow(("h200", "bfloat16", 128)),
        *nightly(("a100", "float16", 64), ("h100", "float16", 256), ("b200", "bfloat16", 128)),
    ],
)
def test_xla_compiles_around_it(chip, dtype, head_dim):
    """A call for each case. In a ring: in the loop over hops and after it; backward for own keys and before it, too."""
    one, ring = worker_lines(
        "tests.pallas_kernels.attention.compile_cudnn",
        (chip, dtype, str(head_dim)),
        {"JAX_PLATFORMS": "cpu"},
        timeout=250,
    )
    cases = len(gpu_cudnn._CASES)
    assert (one, ring) == (f"1 {cases} {cases}", f"8 {2 * cases} {4 * cases}")
