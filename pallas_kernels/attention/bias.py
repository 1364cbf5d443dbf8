"""Biases on attention scores that depend on the distance between query and key, and on the head: ALiBi, T5's.

A bias is a static description that turns a distance, and `params`, some numbers of each head, into a score. The params
are an array [N, D]: they are sharded with the heads, and may be learned. To add a bias: a class here.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import require_whole
from pallas_kernels.masks import TokenInfo


@dataclasses.dataclass(frozen=True)
class Bias:
    """Base of the biases. Frozen and hashable, so that one can be a static argument of a jit.

    width: D, how many numbers each head has in the params.
    """

    width = 1

    def score(self, params: jax.Array, distance: jax.Array) -> jax.Array:
        """The score [N, *distance.shape] in the params' dtype, from params [N, D] and q's position - k's position."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Alibi(Bias):
    """-slope * |distance| (arXiv 2108.12409). Params [N, 1]: the slopes, see alibi_slopes."""

    def score(self, params, distance):
        return -params.reshape(-1, *(1,) * distance.ndim) * jnp.abs(distance)[None].astype(params.dtype)


@dataclasses.dataclass(frozen=True)
class T5(Bias):
    """A learned number for each head and bucket of distances (arXiv 1910.10683). Params [N, buckets].

    Half the buckets hold one distance each, the others grow as powers up to `max_distance` tokens; the last holds all
    beyond. Unless `bidirectional`, where half of the buckets are for later keys, those share the bucket of distance 0.
    Raises ValueError for fewer than 2 buckets in a direction, or a max_distance that leaves none to grow.
    """

    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = False

    def __post_init__(self):
        least = 4 if self.bidirectional else 2
        require_whole("buckets", self.buckets, least, 2**20)
        require_whole("max_distance", self.max_distance, self._one_way() // 2 + 1, 2**30)

    @property
    def width(self):
        """D, the buckets."""
        return self.buckets

    def score(self, params, distance):
        near = jnp.clip(distance, -self.max_distance, self.max_distance) + self.max_distance
        return params[:, jnp.asarray(self._buckets())[near]]

    def _buckets(self) -> np.ndarray:
        """The bucket, int32, of each distance from -max_distance to max_distance.

        It is looked up, since at a bucket's edge the last bit of the logarithm decides: of the published float32
        expression, in its order, whatever the logarithm of the device gives.
        """
        distance = np.arange(-self.max_distance, self.max_distance + 1)
        count = self._one_way()
        size = np.abs(distance) if self.bidirectional else np.maximum(distance, 0)
        exact = count // 2
        ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
        grown = ratio / np.float32(math.log(self.max_distance / exact)) * np.float32(count - exact)
        bucket = np.where(size < exact, size, np.minimum(exact + grown.astype(np.int32), count - 1))
        return (bucket + np.where(self.bidirectional & (distance < 0), count, 0)).astype(np.int32)

    def _one_way(self) -> int:
        """How many buckets one direction has."""
        return self.buckets // 2 if self.bidirectional else self.buckets


def alibi_slopes(heads: int) -> np.ndarray:
    """The published slopes, float32 [heads, 1]: 2^(-8 i / n) for i = 1..n.

    Where the heads are no power of two: those of the power below, then every second one of the power above.
    """
    require_whole("heads", heads, 1, 2**20)
    power = 1 << (heads.bit_length() - 1)
    of = lambda n: 2.0 ** (-8.0 * np.arange(1, n + 1) / n)
    return np.concatenate([of(power), of(2 * power)[::2][: heads - power]]).astype(np.float32)[:, None]


def scores(bias: Bias, params: jax.Array, q_info: TokenInfo, k_info: TokenInfo) -> jax.Array:
    """The bias of every pair of tokens: q_info [..., T], k_info [..., S] -> [N, ..., T, S]."""
    return bias.score(params, q_info.positions[..., :, None] - k_info.positions[..., None, :])


def params_gradient(bias: Bias, params: jax.Array, q_info: TokenInfo, k_info: TokenInfo, ds: jax.Array) -> jax.Array:
    """The gradient [N, D] of the params, from that of the scores: ds [N, ..., T, S]."""
    return jax.vjp(lambda params: scores(bias, params, q_info, k_info), params)[1](ds.astype(params.dtype))[0]
