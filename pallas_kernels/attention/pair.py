"""Attention over a set of keys is a pair (out, lse), and the pairs of disjoint sets of keys merge exactly.

    lse = logaddexp(lse_a, lse_b);   out = out_a * exp(lse_a - lse) + out_b * exp(lse_b - lse)

lse is the log-sum-exp of a query's scores, out the mean of the values under weights exp(score - lse). So a softmax may
be cut anywhere between its keys: into blocks on one chip, shards on several, chunks in time, a cache and new tokens.
Its backward can be cut in the same places, since the weights of any piece follow from three numbers of each query that
are *global*, over all keys: dout, lse and delta = sum(dout * out) - dlse. With p = exp(score - lse),

    dv = p^T dout;   dscore = p * (dout v^T - delta);   dq = dscore k;   dk = dscore^T q

Hence a kernel, and a strategy that cuts a sequence over devices, is two functions and a reason:

    why_not (x: Inputs, spec, platform)                     -> str | None   # why this call cannot be; None if it can
    forward (x: Inputs, spec, initial: Pair | None = None)  -> Pair         # goes on from the pair of other keys
    backward(x: Inputs, spec, stats: RowStats)              -> Grads        # of just these queries and keys
"""

# parts of jax.numpy have no types
# pyright: reportUnknownMemberType=false

from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pallas_kernels.attention.spec import AttentionSpec, accumulator
from pallas_kernels.masks import TokenInfo


class Pair(NamedTuple):
    """The result of attention over some keys; `partial` ones, which are to be merged, have out in float32.

    Attributes:
      out: [B, T, N, H]; 0 in rows that see no key.
      lse: float32 [B, T, N], in nats; -inf in rows that see no key.
    """

    out: Float[Array, "B T N H"]
    lse: Float[Array, "B T N"]


class Inputs(NamedTuple):
    """The arrays of one call of attention, and what masks and biases may know of its tokens.

    Two fields have room for more than implementations take today; see `unsupported`. Positions and segments of keys
    that differ by key head, [B, S, K], describe slots that each head filled with tokens of its own. `keep` is a choice
    of the blocks of keys that blocks of queries read at all, by head.

    Attributes:
      q: [B, T, N, H].
      k, v: [B, S, K, H]; K divides N (GQA, MQA).
      q_info, k_info: positions and segments of the queries, int32 [B, T], and of the keys, [B, S].
      bias_params: float32 [N, D], the numbers that spec.bias reads; None where there is no bias.
      keep: None, all blocks.
    """

    q: Float[Array, "B T N H"]
    k: Float[Array, "B S K H"]
    v: Float[Array, "B S K H"]
    q_info: TokenInfo
    k_info: TokenInfo
    bias_params: Float[Array, "N D"] | None = None
    keep: Array | None = None


class Stack(NamedTuple):
    """Keys and values of a layer among those of stacked ones, as a cache has them for a decoding step.

    Attributes:
      k: [layers, B, K, H, S].
      v: [layers, B, K, S, H].
      info: positions and segments of the slots, int32 [B, S]; segment 0 is an empty slot.
      layer: int32 [].
    """

    k: Float[Array, "L B K H S"]
    v: Float[Array, "L B K S H"]
    info: TokenInfo
    layer: Int[Array, ""]


class RowStats(NamedTuple):
    """Statistics of query rows that a backward needs besides q. All are global, so that any cut of the keys will do.

    Attributes:
      dout: [B, T, N, H], the cotangent of out.
      lse: float32 [B, T, N] over all keys, -inf where a row sees none.
      delta: float32 [B, T, N], sum_h dout * out - dlse: what the softmax backward subtracts from dP in each row.
    """

    dout: Float[Array, "B T N H"]
    lse: Float[Array, "B T N"]
    delta: Float[Array, "B T N"]


class Grads(NamedTuple):
    """Gradients of q, k, v and bias_params; dbias is None where there is no bias."""

    dq: Float[Array, "B T N H"]
    dk: Float[Array, "B S K H"]
    dv: Float[Array, "B S K H"]
    dbias: Float[Array, "N D"] | None = None


@runtime_checkable
class Implementation(Protocol):
    """What computes attention, or a piece of it: a module or an object with these three functions."""

    def why_not(self, x: Inputs, spec: AttentionSpec, platform: str, /) -> str | None:
        """The reason why this call cannot be; None when it can."""
        ...

    def forward(self, x: Inputs, spec: AttentionSpec, initial: Pair | None = None, /) -> Pair:
        """The pair of these queries and keys; goes on from the pair of other keys."""
        ...

    def backward(self, x: Inputs, spec: AttentionSpec, stats: RowStats, /) -> Grads:
        """The gradients of just these queries and keys."""
        ...


def neutral(like: Float[Array, "B T N H"]) -> Pair:
    """The pair of no keys at all, for q or out `like` [B, T, N, H]: merged with any other, it changes nothing."""
    out = jnp.zeros_like(like, jnp.float32)
    return Pair(out, out[..., 0] - jnp.inf)


def merge(a: Pair, b: Pair) -> Pair:
    """The pair over the union of two disjoint key sets, from the partial pair of each: out [B, T, N, H], lse [B, T, N].

    A pair with lse = -inf is neutral; two of them give out = 0, lse = -inf, never NaN.
    """
    top = jnp.maximum(a.lse, b.lse)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weight_a, weight_b = jnp.exp(a.lse - top), jnp.exp(b.lse - top)
    total = weight_a + weight_b
    safe = jnp.where(total > 0, total, 1.0)
    out = a.out * (weight_a / safe)[..., None] + b.out * (weight_b / safe)[..., None]
    return Pair(out, jnp.where(total > 0, top + jnp.log(safe), -jnp.inf))


def with_sinks(pair: Pair, sinks: Float[Array, " N"]) -> Pair:
    """The pair with one more key in every softmax: of logit sinks[n], float [N], and of no value (gpt-oss)."""
    total = jnp.logaddexp(pair.lse, sinks.astype(pair.lse.dtype)[None, None])
    return Pair((pair.out * jnp.exp(pair.lse - total)[..., None]).astype(pair.out.dtype), total)


def cast(pair: Pair, dtype: DTypeLike) -> Pair:
    """The pair with out in `dtype`; lse stays float32."""
    return Pair(pair.out.astype(dtype), pair.lse)


def row_stats(pair: Pair, cotangent: tuple[Float[Array, "B T N H"], Float[Array, "B T N"] | None]) -> RowStats:
    """RowStats of a pair over all keys and its cotangent (dout, dlse); dlse may be None."""
    dout, dlse = cotangent
    acc = accumulator(pair.out)
    delta = jnp.einsum("BTNH,BTNH->BTN", dout.astype(acc), pair.out.astype(acc))
    return RowStats(dout, pair.lse, delta if dlse is None else delta - dlse)


def unsupported(x: Inputs) -> str | None:
    """The reason why no implementation takes these inputs yet, or None."""
    if x.keep is not None:
        return "takes no choice of blocks yet: Inputs.keep must be None"
    if x.k_info.positions.ndim > 2:
        return f"takes one position of a key for all heads yet, [B, S], not {list(x.k_info.positions.shape)}"
    return None
