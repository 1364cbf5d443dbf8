"""Random attention problems, their answers by the float64 reference, and tolerances: for tests of implementations."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.attention import reference
from pallas_kernels.attention.pair import Inputs, row_stats
from pallas_kernels.masks import TokenInfo


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


def problem(seed=0, B=2, T=50, S=None, N=4, K=2, H=16, dtype=jnp.float32, infos=None) -> Problem:
    """Random q, k, v and cotangents. infos: (q_info, k_info); by default one document in each row."""
    S = S or T
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    return Problem(
        draw(B, T, N, H),
        draw(B, S, K, H),
        draw(B, S, K, H),
        *(infos or (one_document(B, T), one_document(B, S))),
        draw(B, T, N, H),
        jnp.asarray(rng.standard_normal((B, T, N)), jnp.float32),
    )


def input_types(q, k) -> Inputs:
    """Inputs of types alone, to ask a why_not or to compile; q, k: ShapeDtypeStructs of the queries and of the keys."""
    q_info, k_info = (TokenInfo(*[jax.ShapeDtypeStruct(x.shape[:2], jnp.int32)] * 2) for x in (q, k))
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


def truth(p: Problem, spec, bias_params=None):
    """(out, lse, dq, dk, dv) of the reference in float64, on the rounded inputs; and dbias, given bias_params."""
    with jax.enable_x64(True):
        double = lambda x: x if x.dtype == jnp.int32 else jnp.asarray(np.asarray(x, np.float64))
        x, dout, dlse = jax.tree.map(double, (p.inputs(bias_params), p.dout, p.dlse))
        return jax.tree.map(np.asarray, _truth(x, dout, dlse, dataclasses.replace(spec, partial=False)))


@functools.partial(jax.jit, static_argnums=3)
def _truth(x, dout, dlse, spec):
    pair = reference.forward(x, spec)
    dlse = jnp.where(jnp.isfinite(pair.lse), dlse, 0.0)
    *grads, dbias = reference.backward(x, spec, row_stats(pair, (dout, dlse)))
    return *pair, *grads, *([] if dbias is None else [dbias])
