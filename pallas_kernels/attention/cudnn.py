"""Flash attention by cuDNN, which knows places in arrays and no positions: for pairs of shards that look like that.

What the pair of all queries and all keys of a call looks like is known on the device alone, from their positions and
segments. There one of a few programs is chosen (`_CASES`): nothing to see; everything; causal by places in the arrays,
as one document in a row, or a shard of it under any layout with increasing positions, is to itself; and what the shards
of a zigzag layout are to one another. So under contiguous and zigzag layouts every hop of a ring over one long document
is one call of cuDNN, or none. Any other pair, such as of packed documents, is done by `otherwise`.

cuDNN's results are rounded to the inputs' dtypes, also those that are summed with others in float32: a part's error is
that of rounding it once, so the sum of many has no more than the sum of one.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import cudnn_call, gpu_chips, masks
from pallas_kernels.attention import blocks, reference
from pallas_kernels.attention.spec import AttentionSpec, Rows
from pallas_kernels.masks import EMPTY, FULL, Causal, Full, Segments, Tokens, Window

_OLDEST = 8, 0
_LARGEST = {(9, 0): 256}  # head dim, where it is more than 128: cuDNN's backward has that on Hopper alone


class _Case(NamedTuple):
    """A part of a pair that cuDNN can do; the rest of the pair is EMPTY. Halves are those of all queries, or keys.

    Attributes:
      looks: relations of halves of the queries with halves of the keys; None is causal by places in the arrays.
      queries: the first half that sees something.
      keys: how many halves are seen.
    """

    looks: tuple | None
    queries: int = 0
    keys: int = 2


_CASES = (
    _Case(None),
    _Case(((FULL, FULL), (FULL, FULL))),
    _Case(((FULL, EMPTY), (FULL, EMPTY)), keys=1),  # zigzag: the keys' shard comes before the queries'
    _Case(((EMPTY, EMPTY), (FULL, FULL)), queries=1),  # zigzag: after
)


@dataclasses.dataclass(frozen=True)
class Cudnn:
    """The implementation of attention. otherwise: (q, k, spec) -> that of pairs that cuDNN cannot do."""

    otherwise: Callable

    def why_not(self, q, k, spec: AttentionSpec, platform: str) -> str | None:
        """What stands in the way of this call, or None."""
        capability = gpu_chips.capability() if platform == "gpu" else None
        if capability is None or capability < _OLDEST:
            return "runs on NVIDIA GPUs of compute capability 8.0 and later"
        if q.dtype not in (jnp.bfloat16, jnp.float16) or k.dtype != q.dtype:
            return f"takes bfloat16 or float16 alone, not {q.dtype} queries with {k.dtype} keys"
        largest = _LARGEST.get(capability, 128)
        if q.shape[3] % 8 or q.shape[3] > largest:
            return f"takes head dims that are multiples of 8 up to {largest}, not {q.shape[3]}"
        if spec.bias or spec.soft_cap:
            return "has no bias on scores, and no soft cap"
        if _rules(spec.mask) is None:
            return f"does causal and full masks, windows of causal ones, and segments, not {spec.mask}"
        if q.shape[1] != k.shape[1] or q.shape[1] % 2:
            return f"takes as many queries as keys, an even number, not {q.shape[1]} and {k.shape[1]}"
        return None

    def forward(self, q, k, v, tokens, spec: AttentionSpec, table=None, before=None):
        """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
        causal, window, _ = _rules(spec.mask)

        def part(case):
            def run(q, k, v, tokens, before):
                rows, seen = _cut(case, q)
                out, lse = cudnn_call.forward(
                    q[:, rows], k[:, seen], v[:, seen], spec.score_scale(q.shape[3]), *_index_mask(case, causal, window)
                )
                out, lse = out.astype(spec.result_dtype(q)), lse.swapaxes(1, 2)
                fill = [(0, 0), (rows.start, 0), (0, 0)]
                result = jnp.pad(out, [*fill, (0, 0)]), jnp.pad(lse, fill, constant_values=-jnp.inf)
                return result if before is None else reference.merge(before, result)

            return run

        def nothing(q, k, v, tokens, before):
            out = jnp.zeros_like(q, spec.result_dtype(q))
            return (out, out[..., 0].astype(jnp.float32) - jnp.inf) if before is None else before

        def other(q, k, v, tokens, before):
            return self.otherwise(q, k, spec).forward(q, k, v, tokens, spec, None, before)

        return _switch(spec.mask, tokens, nothing, part, other, q, k, v, tokens, before)

    def backward(self, q, k, v, tokens, spec: AttentionSpec, rows: Rows, table=None):
        """(dq, dk, dv, None) of these keys and queries; see reference.backward."""
        causal, window, _ = _rules(spec.mask)

        def part(case):
            def run(q, k, v, tokens, rows):
                these, seen = _cut(case, q)
                here = jax.tree.map(lambda x: x[:, these], rows)
                out, dout = for_delta(here, q.dtype)
                grads = cudnn_call.backward(
                    q[:, these],
                    k[:, seen],
                    v[:, seen],
                    here.lse.swapaxes(1, 2),
                    out,
                    dout,
                    spec.score_scale(q.shape[3]),
                    *_index_mask(case, causal, window),
                )
                pad = lambda x, start, end: jnp.pad(x, [(0, 0), (start, end), (0, 0), (0, 0)])
                unseen = k.shape[1] - seen.stop
                dq, dk, dv = (
                    pad(g, *at) for g, at in zip(grads, ((these.start, 0), (0, unseen), (0, unseen)), strict=True)
                )
                return spec.rounded((dq, dk, dv), (q, k, v))

            return run

        def nothing(q, k, v, tokens, rows):
            return spec.rounded(tuple(map(jnp.zeros_like, (q, k, v))), (q, k, v))

        def other(q, k, v, tokens, rows):
            return tuple(self.otherwise(q, k, spec).backward(q, k, v, tokens, spec, rows)[:3])

        return *_switch(spec.mask, tokens, nothing, part, other, q, k, v, tokens, rows), None


def for_delta(rows: Rows, dtype) -> tuple[jax.Array, jax.Array]:
    """(out, dout) in `dtype` with sum_h dout * out = rows.delta, which is all that cuDNN's backward uses `out` for.

    The true out of a row would not do: delta is less the cotangent of lse. Along dout, out = dout * delta / |dout|^2
    has no cancellation in its sum, which is good to the rounding of `dtype`; that of the true out is good to it times
    |dout| |out|. Where dout is next to nothing beside delta, its first component is raised to 2^-40 of it (2^-14 in
    float16, which has not the range), so that out stays finite.
    """
    share, smallest = (2.0**-14, 2.0**-24) if dtype == jnp.float16 else (2.0**-40, 2.0**-120)
    delta, dout = rows.delta[..., None], rows.dout.astype(jnp.float32)
    least = jnp.where(delta == 0, 0.0, jnp.maximum(share * jnp.abs(delta), smallest))
    first = jax.lax.broadcasted_iota(jnp.int32, dout.shape, 3) == 0
    top = lambda x: jnp.abs(x).max(-1, keepdims=True)
    dout = jnp.where(first & (top(dout) < least), least, dout).astype(dtype).astype(jnp.float32)
    size = jnp.maximum(top(dout), smallest)
    along = dout / size  # squares of dout itself could underflow
    out = along * (delta / size / jnp.maximum(jnp.square(along).sum(-1, keepdims=True), 1.0))
    return out.astype(dtype), dout.astype(dtype)


def _rules(mask: masks.Mask) -> tuple[bool, int | None, masks.Mask] | None:
    """(causal, window, the rest, which knows no order) of a mask that cuDNN can do; None of another."""
    parts = _parts(mask)
    windows = [part.size for part in parts if isinstance(part, Window)]
    causal, rest = Causal() in parts, Segments() if Segments() in parts else Full()
    if not all(isinstance(part, (Full, Causal, Window, Segments)) for part in parts) or windows and not causal:
        return None
    return causal, min(windows, default=None), rest


def _parts(mask):
    return [*_parts(mask.left), *_parts(mask.right)] if isinstance(mask, masks.And) else [mask]


def _switch(mask, tokens, nothing, part, other, *operands):
    """The result of the program for what these tokens look like."""
    looks = jnp.stack([*_looks(mask, *tokens), jnp.array(True)])
    return jax.lax.switch(jnp.argmax(looks), [nothing, *map(part, _CASES), other], *operands)


def _looks(mask, q: Tokens, k: Tokens) -> list[jax.Array]:
    """Whether there is nothing to see, then whether each of _CASES is: bool scalars, over all rows of the batch."""
    half = q.positions.shape[1] // 2
    halves = blocks.relations(mask, q, k, half, half)  # [B, 2, 2]
    found = [(halves == jnp.array([case.looks])).all() for case in _CASES if case.looks]
    return [(halves == EMPTY).all(), _by_places(mask, q, k), *found]


def _by_places(mask, q, k):
    """Whether query i sees key j just where i >= j, and, in a window, tokens are as far apart as their places."""
    causal, window, rest = _rules(mask)
    if not causal:
        return jnp.array(False)
    whole = q.positions.shape[1]
    together = blocks.relations(rest, q, k, whole, whole) == FULL
    (here, _), (there, _) = q, k
    later = there[:, 1:]
    ordered = (there[:, :-1] <= later).all() & (here >= there).all() & (here[:, :-1] < later).all()
    if window:
        ordered &= (here == there).all() & (later - there[:, :-1] == 1).all()
    return together.all() & ordered


def _cut(case, q):
    """(slice of the queries, slice of the keys) that the case is about."""
    half = q.shape[1] // 2
    return slice(case.queries * half, 2 * half), slice(0, case.keys * half)


def _index_mask(case, causal, window):
    return (causal, window) if case.looks is None else (False, None)
