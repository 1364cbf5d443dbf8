"""Random attention problems, their answers by the float64 reference, tolerances; and tests that a kernel inherits.

KernelCases is a class of tests for pytest, which this file itself does not need.
"""

import dataclasses
import functools
import unittest
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import select
from pallas_kernels.attention import api, reference
from pallas_kernels.attention.bias import T5, Alibi, Bias, alibi_slopes
from pallas_kernels.attention.pair import Inputs, Pair, row_stats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import (
    Beyond,
    Branches,
    Causal,
    Chunked,
    ChunksBefore,
    Full,
    Mask,
    PrefixLM,
    Segments,
    Sinks,
    TokenInfo,
    Window,
)


def tolerance(dtype, terms: int) -> float:
    """Bound on |error| / max |reference| of a sum of `terms` products rounded to `dtype`.

    Rounding errors add like a random walk.
    """
    eps = float(jnp.finfo(dtype).eps)
    return 4 * eps * max(1.0, terms**0.5 if jnp.dtype(dtype).itemsize > 2 else 1.0)


def relative_error(got, want) -> float:
    """max |got - want| / max |want|, in float64; infinities must agree in place and sign."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    same = np.where(np.isfinite(want), want, 0.0)
    return float(np.abs(np.where(np.isfinite(got), got, 0.0) - same).max() / max(np.abs(same).max(), 1e-30))


def assert_close(got, want, dtype, terms: int, what: str = ""):
    """Every leaf of got within tolerance(dtype, terms) of want."""
    for i, (g, w) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)):
        error = relative_error(g, w)
        assert error <= tolerance(dtype, terms), f"{what} leaf {i}: error {error:.2e} > {tolerance(dtype, terms):.2e}"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a problem: rows B, queries T, keys S (0: as many as queries), query heads N, key heads K, head dim H."""

    B: int = 2
    T: int = 50
    S: int = 0
    N: int = 4
    K: int = 2
    H: int = 16


class Problem(NamedTuple):
    """One attention problem, with cotangents for out and lse."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    q_info: TokenInfo
    k_info: TokenInfo
    dout: jax.Array
    dlse: jax.Array

    def inputs(self, bias_params=None) -> Inputs:
        """The arrays of the call."""
        return Inputs(self.q, self.k, self.v, self.q_info, self.k_info, bias_params)


def problem(seed=0, dtype=jnp.float32, infos=None, **sizes) -> Problem:
    """Random q, k, v and cotangents. infos: (q_info, k_info); by default one document in each row. sizes: of Sizes."""
    s = Sizes(**sizes)
    rng, S = np.random.default_rng(seed), s.S or s.T
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    q_info, k_info = infos or (one_document(s.B, s.T), one_document(s.B, S))
    return Problem(
        draw(s.B, s.T, s.N, s.H),
        draw(s.B, S, s.K, s.H),
        draw(s.B, S, s.K, s.H),
        q_info,
        k_info,
        draw(s.B, s.T, s.N, s.H),
        jnp.asarray(rng.standard_normal((s.B, s.T, s.N)), jnp.float32),
    )


def input_types(q, k) -> Inputs:
    """Inputs of types alone, to ask a why_not or to compile; q, k: ShapeDtypeStructs of the queries and of the keys."""
    ids: Any = (jax.ShapeDtypeStruct(x.shape[:2], jnp.int32) for x in (q, k))
    q_info, k_info = (TokenInfo(x, x) for x in ids)
    return Inputs(q, k, k, q_info, k_info)


def one_document(B, T, start=0) -> TokenInfo:
    """Rows of one document, whose positions count from `start`."""
    positions = jnp.broadcast_to(jnp.arange(start, start + T, dtype=jnp.int32), (B, T))
    return TokenInfo(positions, jnp.ones((B, T), jnp.int32))


def packed(seed, B, T, mean=12, padding=3) -> TokenInfo:
    """Rows of random documents with restarted positions, and `padding` tokens of segment 0 at the end."""
    rng = np.random.default_rng(seed)
    positions, segments = np.zeros((B, T), np.int32), np.zeros((B, T), np.int32)
    for b in range(B):
        at, segment = 0, 1
        while at < T - padding:
            n = min(int(rng.integers(1, 2 * mean)), T - padding - at)
            positions[b, at : at + n], segments[b, at : at + n] = np.arange(n), segment
            at, segment = at + n, segment + 1
    return TokenInfo(jnp.asarray(positions), jnp.asarray(segments))


def seen_dlse(lse, dlse):
    """The cotangent of lse, both [B, T, N], and 0 where lse is -inf: no gradient flows into rows that see nothing."""
    return jnp.where(jnp.isfinite(lse), dlse, 0.0)


def truth(p: Problem, spec, bias_params=None):
    """(out, lse, dq, dk, dv) of the reference in float64, on the rounded inputs; and dbias, given bias_params."""
    with jax.enable_x64(True):
        double = lambda x: x if x.dtype == jnp.int32 else jnp.asarray(np.asarray(x, np.float64))
        x, dout, dlse = jax.tree.map(double, (p.inputs(bias_params), p.dout, p.dlse))
        return jax.tree.map(np.asarray, _truth(x, dout, dlse, dataclasses.replace(spec, partial=False)))


@functools.partial(jax.jit, static_argnums=3)
def _truth(x, dout, dlse, spec):
    pair = reference.forward(x, spec)
    dlse = seen_dlse(pair.lse, dlse)
    *grads, dbias = reference.backward(x, spec, row_stats(pair, (dout, dlse)))
    return *pair, *grads, *([] if dbias is None else [dbias])


@functools.partial(jax.jit, static_argnums=(1, 2))
def results(p: Problem, spec: AttentionSpec, kernel, bias_params=None):
    """(out, lse, dq, dk, dv) of a kernel, and dbias, given bias_params. No gradient flows into lse = -inf.

    kernel: a name in IMPLEMENTATIONS, for the public function and its autodiff; or a module (or a frozen instance) with
    the functions of a kernel.
    """
    cotangent = lambda pair: Pair(p.dout.astype(pair.out.dtype), seen_dlse(pair.lse, p.dlse))
    x = p.inputs(bias_params)
    if not isinstance(kernel, str):
        pair = kernel.forward(x, spec)
        grads = kernel.backward(x, spec, row_stats(pair, cotangent(pair)))
        return *pair, *grads[:3], *([] if bias_params is None else grads[3:])
    arrays = (*x[:3], *([] if bias_params is None else [bias_params]))
    f = lambda q, k, v, *params: api.attention(Inputs(q, k, v, p.q_info, p.k_info, *params), spec, kernel)
    pair, pull = jax.vjp(f, *arrays)
    return *pair, *pull(cotangent(pair))


def keys_from(x: Inputs, start: int, end: int) -> Inputs:
    """Inputs of the keys from `start` to `end` alone."""
    k, v, k_info = jax.tree.map(lambda y: y[:, start:end], (x.k, x.v, x.k_info))
    return x._replace(k=k, v=v, k_info=k_info)


def piece_by_piece(p: Problem, spec: AttentionSpec, kernel, *pieces: tuple[int, int]) -> Pair:
    """The pair that a kernel's forward goes on with from piece to piece of the keys. pieces: (start, end) of each."""
    partial, forward = dataclasses.replace(spec, partial=True), implementation(kernel).forward

    @jax.jit
    def whole(p, pair=None):
        for piece in pieces:
            pair = forward(keys_from(p.inputs(), *piece), partial, pair)
        return pair

    return whole(p)


def implementation(kernel):
    """The kernel of a name in IMPLEMENTATIONS; a kernel itself as it is."""
    return api.IMPLEMENTATIONS[kernel] if isinstance(kernel, str) else kernel


MASKS = {
    "causal": Causal(),
    "full": Full(),
    "window": Causal() & Window(9),
    "sinks": Causal() & (Window(7) | Sinks(3)),
    "prefix": Causal() | PrefixLM(11),
    "chunked": Causal() & Chunked(13),
    "packed": Causal() & Segments(),
    "beyond": Causal() & Beyond(9) & Sinks(20),
    "branches": Causal() & Branches(2),
    "chunks_before": Causal() & ChunksBefore(13, 1, 2),
    "packed_prefix_window": (Causal() & Window(6) | PrefixLM(4)) & Segments(),
}
SHAPES = {  # changes of sizes
    "mha": dict(N=4, K=4),
    "mqa": dict(N=4, K=1),
    "gqa": dict(N=6, K=3, H=8),
    "one_token": dict(T=1, S=1),
    "few_queries": dict(T=7, S=33),
    "few_keys": dict(T=33, S=7),
    "whole_blocks": dict(T=64, H=128, B=1),
}
_T5_PARAMS = np.random.default_rng(8).standard_normal((6, 8)).astype(np.float32)
BIASES: dict[str, tuple[Bias, Any, Mask]] = {  # name -> bias, params of 6 heads, mask
    "alibi": (Alibi(), alibi_slopes(6), Causal() & Segments()),
    "t5": (T5(8, 20), _T5_PARAMS, Causal() & Segments()),
    "t5_bidirectional": (T5(8, 9, bidirectional=True), _T5_PARAMS, Segments()),
}
_SETS = {"mask": "masks", "dtype": "dtypes", "shape": "shapes", "bias": "biases", "cuts": "cuts"}


class KernelCases:
    """Tests of an attention kernel by the float64 reference, for pytest; a subclass says which kernel.

        class TestMine(KernelCases):
            kernel = mine

    Values and all gradients are compared, on the same rounded inputs. A call that `why_not` refuses is skipped, with
    its reason. A subclass may have sets, sizes and fixtures of its own, and leave a test out: `test_biases = None`.

    Attributes:
      kernel: a module (or a frozen instance) with why_not, forward and backward, or a name in IMPLEMENTATIONS.
      sizes: of problems, where a test needs no others.
      block: the tokens per block that calls ask for; of such blocks sizes.T should be several, and no multiple.
      dtypes: of the inputs; where one is enough, a test takes the first, or the last.
      masks: by name; where a mask knows segments, rows are packed documents.
      shapes: changes of sizes, by name: head layouts and lengths.
      biases: by name, (bias, its params [6, D], mask).
      cuts: into how many pieces keys are cut.
    """

    kernel: Any = None
    sizes = Sizes()
    block = 16
    dtypes = ("float32", "bfloat16")
    masks = MASKS
    shapes = SHAPES
    biases = BIASES
    cuts = (2,)

    def pytest_generate_tests(self, metafunc):
        """Runs a test for all members of the sets that its arguments name; pytest calls this."""
        named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
        own = {name.strip() for names in named for name in (names.split(",") if isinstance(names, str) else names)}
        for argument in metafunc.fixturenames:
            if argument in _SETS and argument not in own:
                metafunc.parametrize(argument, list(getattr(self, _SETS[argument])))

    def problem(self, seed=0, dtype=None, infos=None, **changes) -> Problem:
        """A problem of self.sizes with changes, by default of the first dtype."""
        sizes = dataclasses.asdict(self.sizes) | changes
        return problem(seed, dtype or self.dtypes[0], infos, **sizes)

    def packed(self, seed, mean=12) -> tuple[TokenInfo, TokenInfo]:
        """Infos of packed documents, alike on both sides, in rows of self.sizes."""
        info = packed(seed, self.sizes.B, self.sizes.T, mean)
        return info, info

    def require(self, x: Inputs, spec: AttentionSpec) -> None:
        """Skips the test where the kernel refuses a call."""
        if reason := self.why_not(x, spec):
            raise unittest.SkipTest(f"{self.kernel if isinstance(self.kernel, str) else 'the kernel'} {reason}")

    def why_not(self, x: Inputs, spec: AttentionSpec) -> str | None:
        """The kernel's reason against a call on the devices that there are, or None."""
        return implementation(self.kernel).why_not(x, spec, select.traced_platform())

    def check(self, p: Problem, spec: AttentionSpec, bias_params=None, terms: int = 1):
        """Compares (out, lse, dq, dk, dv), and dbias where there is a bias, with the reference; gives them back.

        terms: of sums, for the tolerance; where queries or keys are more, as many as these.
        """
        self.require(p.inputs(bias_params), spec)
        got = results(p, spec, self.kernel, bias_params)
        self.compare(got, truth(p, spec, bias_params), p, terms)
        return got

    def compare(self, got, want, p: Problem, terms: int = 1) -> None:
        """Asserts that results are as close as rounding allows; terms: see `check`."""
        assert_close(got, want, p.q.dtype, max(p.q.shape[1], p.k.shape[1], terms), "out, lse, dq, dk, dv, dbias:")

    def check_cut(self, p: Problem, *pieces: tuple[int, int]) -> Pair:
        """Compares the pair and the gradients of documents whose keys are cut into pieces, each (start, end)."""
        spec = AttentionSpec(Causal() & Segments(), partial=True, block=self.block)
        parts = [keys_from(p.inputs(), *piece) for piece in pieces]
        for part in parts:
            self.require(part, spec)
        pair = piece_by_piece(p, spec, self.kernel, *pieces)
        stats = row_stats(pair, (p.dout, seen_dlse(pair.lse, p.dlse)))
        backward = jax.jit(lambda part, stats: implementation(self.kernel).backward(part, spec, stats)[:3])
        dqs, dks, dvs = zip(*(backward(part, stats) for part in parts), strict=True)
        got = *pair, functools.reduce(jnp.add, dqs), jnp.concatenate(dks, 1), jnp.concatenate(dvs, 1)
        assert {x.dtype for x in got} == {jnp.dtype(jnp.float32)}
        self.compare(got, truth(p, spec), p)
        return pair

    def test_masks(self, mask, dtype):
        spec = AttentionSpec(self.masks[mask], block=self.block)
        infos = self.packed(3, self.sizes.T // 4) if _knows_segments(spec.mask) else None
        self.check(self.problem(dtype=dtype, infos=infos), spec)

    def test_shapes(self, shape):
        """Head layouts, and lengths that blocks do not divide. With one key, dq and dk are what cancellation leaves."""
        self.check(self.problem(1, **self.shapes[shape]), AttentionSpec(block=self.block), terms=64)

    def test_blocks_of_its_own_choice(self):
        """Where that is one block, its loop of one step is inlined, which exposes other orders of operands."""
        self.check(self.problem(dtype=self.dtypes[-1], B=1, T=64), AttentionSpec())

    def test_scale_and_soft_cap(self):
        self.check(self.problem(2), AttentionSpec(scale=0.7, soft_cap=2.0, block=self.block))

    def test_biases(self, bias, dtype):
        """Per head, over packed documents, with a soft cap; the params have a gradient."""
        kind, params, mask = self.biases[bias]
        p = self.problem(3, dtype, self.packed(4), N=6, K=3)
        self.check(p, AttentionSpec(mask, None, kind, 4.0, block=self.block), jnp.asarray(params))

    def test_rows_that_see_nothing(self):
        """Keys far ahead of queries, queries of a segment that no key has, padding, and whole rows of them."""
        B, T, rows = self.sizes.B, self.sizes.T, np.arange(self.sizes.T)
        first, end = 3 * T // 8, 7 * T // 8
        segments = np.where(rows < first, 1, np.where(rows < end, 2, 0))[None] * (np.arange(B) == 0)[:, None]
        positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
        keys = TokenInfo(positions + 5, jnp.ones((B, T), jnp.int32))
        p = self.problem(infos=(TokenInfo(positions, jnp.asarray(segments, jnp.int32)), keys))
        out, lse, dq, dk, dv = map(np.asarray, self.check(p, AttentionSpec(Causal() & Segments(), block=self.block)))
        blind = np.ones((B, T), bool)
        blind[0, 5:first] = False
        assert not out[blind].any() and not dq[blind].any()
        assert np.array_equal(np.isneginf(lse).all(-1), blind)
        assert not any(grad[1:].any() or grad[0, first - 5 :].any() for grad in (dk, dv))

    def test_cut_keys(self, cuts, dtype):
        """Forward goes on from piece to piece; some rows see keys of one piece only, or of none.

        Gradients of pieces, each from the global RowStats, are the pieces of the gradient; dq is their sum.
        """
        pieces = [(piece[0], piece[-1] + 1) for piece in np.array_split(range(self.sizes.T), cuts)]
        self.check_cut(self.problem(6, dtype, self.packed(7)), *pieces)

    def test_dtypes_of_results(self):
        """Partial results are float32, whole ones as the inputs; lse is float32."""
        p, kernel = self.problem(dtype=self.dtypes[-1]), implementation(self.kernel)
        for partial in (True, False):
            spec = AttentionSpec(partial=partial, block=self.block)
            self.require(p.inputs(), spec)
            pair = jax.eval_shape(lambda x, spec=spec: kernel.forward(x, spec), p.inputs())
            stats = jax.eval_shape(row_stats, pair, (p.dout, p.dlse))
            grads = jax.eval_shape(lambda x, stats, spec=spec: kernel.backward(x, spec, stats), p.inputs(), stats)
            dtype = jnp.dtype(jnp.float32 if partial else self.dtypes[-1])
            assert {x.dtype for x in (pair.out, *grads[:3])} == {dtype} and pair.lse.dtype == jnp.float32

    def test_empty_blocks_are_not_visited(self):
        """NaN in keys that no query may see reaches nothing: a block that is skipped is never multiplied."""
        block, far = self.block, 100 * self.block
        spec, infos = AttentionSpec(Causal() & Window(block), block=block), one_document(1, 4 * block, far)
        half = 2 * block
        near = jnp.arange(far - 10, far - 10 + half)
        k_info = TokenInfo(jnp.concatenate([jnp.arange(half), near]).astype(jnp.int32)[None], infos.segments)
        p = self.problem(infos=(infos, k_info), B=1, T=4 * block)
        self.require(p.inputs(), spec)
        unseen = lambda x: x.at[:, :half].set(jnp.nan)
        out, lse, *grads = results(p._replace(k=unseen(p.k), v=unseen(p.v)), spec, self.kernel)
        assert all(np.isfinite(x).all() for x in (out, *grads)) and not np.isnan(lse).any()

    def test_what_no_kernel_takes_is_refused(self):
        """What Inputs have room for has a reason, until a kernel takes it."""
        x, B, S = self.problem().inputs(), self.sizes.B, self.sizes.T
        by_head = TokenInfo(*[jnp.ones((B, S, self.sizes.K), jnp.int32)] * 2)
        for change in (dict(keep=jnp.ones((B, 2, 4, 4), bool)), dict(k_info=by_head)):
            assert self.why_not(x._replace(**change), AttentionSpec(block=self.block)), change


def _knows_segments(mask: Mask) -> bool:
    """Whether a mask reads segments to tell documents apart."""
    sides = (getattr(mask, side, None) for side in ("left", "right"))
    return isinstance(mask, Segments) or any(_knows_segments(side) for side in sides if side)
