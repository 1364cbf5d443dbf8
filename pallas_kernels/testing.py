"""Random attention problems, their answers by the float64 reference, and how far from them a result may be."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.attention import reference
from pallas_kernels.attention.spec import rows
from pallas_kernels.masks import Tokens


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
    """One attention problem with cotangents for both results."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    tokens: tuple[Tokens, Tokens]
    dout: jax.Array
    dlse: jax.Array


def problem(seed=0, B=2, T=50, S=None, N=4, K=2, H=16, dtype=jnp.float32, tokens=None) -> Problem:
    """Random q, k, v and cotangents; tokens default to one document per row."""
    S = S or T
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    return Problem(
        draw(B, T, N, H),
        draw(B, S, K, H),
        draw(B, S, K, H),
        tokens or (one_document(B, T), one_document(B, S)),
        draw(B, T, N, H),
        jnp.asarray(rng.standard_normal((B, T, N)), jnp.float32),
    )


def one_document(B, T, start=0) -> Tokens:
    return Tokens(jnp.broadcast_to(jnp.arange(start, start + T, dtype=jnp.int32), (B, T)), jnp.ones((B, T), jnp.int32))


def packed(seed, B, T, mean=12, padding=3) -> Tokens:
    """Rows of random documents with restarted positions, and `padding` tokens of segment 0 at the end."""
    rng = np.random.default_rng(seed)
    positions, segments = np.zeros((B, T), np.int32), np.zeros((B, T), np.int32)
    for b in range(B):
        at, segment = 0, 1
        while at < T - padding:
            n = min(int(rng.integers(1, 2 * mean)), T - padding - at)
            positions[b, at : at + n], segments[b, at : at + n] = np.arange(n), segment
            at, segment = at + n, segment + 1
    return Tokens(jnp.asarray(positions), jnp.asarray(segments))


def truth(p: Problem, spec, table=None):
    """(out, lse, dq, dk, dv) of the reference in float64, on the same (rounded) inputs; and dtable, given a table."""
    with jax.enable_x64(True):
        arrays = [
            None if x is None else jnp.asarray(np.asarray(x, np.float64))
            for x in (p.q, p.k, p.v, p.dout, p.dlse, table)
        ]
        return jax.tree.map(np.asarray, _truth(*arrays, p.tokens, dataclasses.replace(spec, partial=False)))


@functools.partial(jax.jit, static_argnums=7)
def _truth(q, k, v, dout, dlse, table, tokens, spec):
    result = reference.forward(q, k, v, tokens, spec, table)
    dlse = jnp.where(jnp.isfinite(result[1]), dlse, 0.0)
    *grads, dtable = reference.backward(q, k, v, tokens, spec, rows(result, (dout, dlse)), table)
    return *result, *grads, *([] if dtable is None else [dtable])
