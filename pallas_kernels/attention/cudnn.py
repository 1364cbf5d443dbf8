"""Flash attention by cuDNN, which knows places in arrays and no positions: for calls that can be said by places.

Which queries of a call see which of its keys is known on the device alone, from their positions and segments. There one
of a few programs is chosen (`_CASES`): nothing to see; everything; causal by places in the arrays, which one document
in a row, or a shard of it under any layout with increasing positions, is to itself; and what the shards of a zigzag
layout are to one another. So under contiguous and zigzag layouts every hop of a ring over one long document is one call
of cuDNN, or none. Any other call, such as of packed documents, is done by `otherwise`.

cuDNN's results are rounded to the inputs' dtypes, also those that are summed with others in float32: a part's error is
that of rounding it once, so the sum of many has no more than the sum of one.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import cudnn_call, gpu_chips, masks
from pallas_kernels.attention import blocks
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, merge, unsupported
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import EMPTY, FULL, Causal, Full, Segments, TokenInfo, Window

_OLDEST = 8, 0
_LARGEST = {(9, 0): 256}  # head dim, where it is more than 128: cuDNN's backward has that on Hopper alone


class _Case(NamedTuple):
    """A part of a call that cuDNN can do; the rest of it is EMPTY. Halves are those of all queries, or of all keys.

    Attributes:
      relations: of halves of the queries with halves of the keys; None is causal by places in the arrays.
      queries: the first half that sees something.
      keys: how many halves are seen.
    """

    relations: tuple | None
    queries: int = 0
    keys: int = 2

    def slices(self, x: Inputs) -> tuple[slice, slice]:
        """(slice of the queries, slice of the keys) that the case is about."""
        half = x.q.shape[1] // 2
        return slice(self.queries * half, 2 * half), slice(0, self.keys * half)

    def scores(self, spec: AttentionSpec, head_dim: int) -> cudnn_call.Scores:
        """The scores of the case's queries and keys: its mask by places in the arrays."""
        causal, window, _ = _rules(spec.mask)
        rule = (causal, window) if self.relations is None else (False, None)
        return cudnn_call.Scores(spec.score_scale(head_dim), *rule)


_CASES = (
    _Case(None),
    _Case(((FULL, FULL), (FULL, FULL))),
    _Case(((FULL, EMPTY), (FULL, EMPTY)), keys=1),  # zigzag: the keys' shard comes before the queries'
    _Case(((EMPTY, EMPTY), (FULL, FULL)), queries=1),  # zigzag: after
)


@dataclasses.dataclass(frozen=True)
class Cudnn:
    """The implementation of attention by cuDNN. otherwise: (x, spec) -> the implementation of what cuDNN cannot do."""

    otherwise: Callable

    def why_not(self, x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
        """The reason why this call cannot be, or None."""
        if reason := unsupported(x):
            return reason
        capability = gpu_chips.capability() if platform == "gpu" else None
        if capability is None or capability < _OLDEST:
            return "runs on NVIDIA GPUs of compute capability 8.0 and later"
        if x.q.dtype not in (jnp.bfloat16, jnp.float16) or x.k.dtype != x.q.dtype:
            return f"takes bfloat16 or float16 alone, not {x.q.dtype} queries with {x.k.dtype} keys"
        largest = _LARGEST.get(capability, 128)
        if x.q.shape[3] % 8 or x.q.shape[3] > largest:
            return f"takes head dims that are multiples of 8 up to {largest}, not {x.q.shape[3]}"
        if spec.bias or spec.soft_cap:
            return "has no bias on scores, and no soft cap"
        if _rules(spec.mask) is None:
            return f"does causal and full masks, windows of causal ones, and segments, not {spec.mask}"
        if x.q.shape[1] != x.k.shape[1] or x.q.shape[1] % 2:
            return f"takes as many queries as keys, an even number, not {x.q.shape[1]} and {x.k.shape[1]}"
        return None

    def forward(self, x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
        """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""

        def nothing(x, initial):
            out = jnp.zeros_like(x.q, spec.result_dtype(x.q))
            return Pair(out, out[..., 0].astype(jnp.float32) - jnp.inf) if initial is None else initial

        def by_case(case):
            return lambda x, initial: _case_forward(case, spec, x, initial)

        def other(x, initial):
            return self.otherwise(x, spec).forward(x, spec, initial)

        return _switch(spec.mask, x, nothing, by_case, other, initial)

    def backward(self, x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
        """Gradients of these queries and keys; see reference.backward."""

        def nothing(x, stats):
            return spec.rounded(Grads(*map(jnp.zeros_like, (x.q, x.k, x.v))), x)

        def by_case(case):
            return lambda x, stats: _case_backward(case, spec, x, stats)

        def other(x, stats):
            return self.otherwise(x, spec).backward(x, spec, stats)

        return _switch(spec.mask, x, nothing, by_case, other, stats)


def _case_forward(case: _Case, spec, x: Inputs, initial: Pair | None) -> Pair:
    """The pair of a call that looks like this case."""
    queries, keys = case.slices(x)
    scores = case.scores(spec, x.q.shape[3])
    out, lse = cudnn_call.forward(x.q[:, queries], x.k[:, keys], x.v[:, keys], scores)
    out, lse = out.astype(spec.result_dtype(x.q)), lse.swapaxes(1, 2)
    fill = [(0, 0), (queries.start, 0), (0, 0)]
    pair = Pair(jnp.pad(out, [*fill, (0, 0)]), jnp.pad(lse, fill, constant_values=-jnp.inf))
    return pair if initial is None else merge(initial, pair)


def _case_backward(case: _Case, spec, x: Inputs, stats: RowStats) -> Grads:
    """Gradients of a call that looks like this case."""
    queries, keys = case.slices(x)
    stats = jax.tree.map(lambda y: y[:, queries], stats)
    out, dout = for_delta(stats, x.q.dtype)
    lse, scores = stats.lse.swapaxes(1, 2), case.scores(spec, x.q.shape[3])
    arrays = x.q[:, queries], x.k[:, keys], x.v[:, keys]
    dq, dk, dv = cudnn_call.backward(*arrays, lse, out, dout, scores)
    pad = lambda grad, start, end: jnp.pad(grad, [(0, 0), (start, end), (0, 0), (0, 0)])
    unseen = x.k.shape[1] - keys.stop
    return spec.rounded(Grads(pad(dq, queries.start, 0), pad(dk, 0, unseen), pad(dv, 0, unseen)), x)


def for_delta(stats: RowStats, dtype) -> tuple[jax.Array, jax.Array]:
    """(out, dout) in `dtype` with sum_h dout * out = stats.delta, which is all that cuDNN's backward uses `out` for.

    The true out of a row would not do: delta is less the cotangent of lse. Along dout, out = dout * delta / |dout|^2
    has no cancellation in its sum, which is good to the rounding of `dtype`; that of the true out is good to it times
    |dout| |out|. Where dout is next to nothing beside delta, its first component is raised to 2^-40 of it (2^-14 in
    float16, which has not the range), so that out stays finite.
    """
    share, smallest = (2.0**-14, 2.0**-24) if dtype == jnp.float16 else (2.0**-40, 2.0**-120)
    delta, dout = stats.delta[..., None], stats.dout.astype(jnp.float32)
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


def _switch(mask, x: Inputs, nothing, by_case, other, operand):
    """The result, on x and the operand, of the program for what the tokens of this call look like."""
    matches = jnp.stack([*_matches(mask, x.q_info, x.k_info), jnp.array(True)])
    return jax.lax.switch(jnp.argmax(matches), [nothing, *map(by_case, _CASES), other], x, operand)


def _matches(mask, q_info: TokenInfo, k_info: TokenInfo) -> list[jax.Array]:
    """Whether there is nothing to see, then whether it is each of _CASES: bool scalars, over all rows of the batch."""
    half = q_info.positions.shape[1] // 2
    halves = blocks.relations(mask, q_info, k_info, half, half)  # [B, 2, 2]
    by_case = [(halves == jnp.array([case.relations])).all() for case in _CASES if case.relations]
    return [(halves == EMPTY).all(), _by_places(mask, q_info, k_info), *by_case]


def _by_places(mask, q_info, k_info):
    """Whether query i sees key j just where i >= j, and, in a window, tokens are as far apart as their places."""
    causal, window, rest = _rules(mask)
    if not causal:
        return jnp.array(False)
    whole = q_info.positions.shape[1]
    together = blocks.relations(rest, q_info, k_info, whole, whole) == FULL
    of_q, of_k = q_info.positions, k_info.positions
    later = of_k[:, 1:]
    ordered = (of_k[:, :-1] <= later).all() & (of_q >= of_k).all() & (of_q[:, :-1] < later).all()
    if window:
        ordered &= (of_q == of_k).all() & (later - of_k[:, :-1] == 1).all()
    return together.all() & ordered
