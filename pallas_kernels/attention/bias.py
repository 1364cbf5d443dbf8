"""Biases on attention scores that depend on the distance between query and key, and on the head: ALiBi.

A bias is a static description that turns a distance, and the numbers which a table holds for each head, into a score.
The table is an array: it is cut with the heads, and may be learned. To add a bias: a class here.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.masks import Tokens


@dataclasses.dataclass(frozen=True)
class Bias:
    """Base of the biases. Frozen and hashable, so that one can be a static argument of a jit."""

    def score(self, table: jax.Array, distance: jax.Array) -> jax.Array:
        """[N, *distance.shape] in the table's dtype, from the table [N, D] and q's position - k's position."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Alibi(Bias):
    """-slope * |distance| (arXiv 2108.12409). Table [N, 1]: the slopes, see alibi_slopes."""

    def score(self, table, distance):
        return -table.reshape(-1, *(1,) * distance.ndim) * jnp.abs(distance)[None].astype(table.dtype)


def alibi_slopes(heads: int) -> np.ndarray:
    """The published slopes, float32 [heads, 1]: 2^(-8 i / n) for i = 1..n.

    Where the heads are no power of two: those of the power below, then every second one of the power above.
    """
    power = 1 << (heads.bit_length() - 1)
    of = lambda n: 2.0 ** (-8.0 * np.arange(1, n + 1) / n)
    return np.concatenate([of(power), of(2 * power)[::2][:heads - power]]).astype(np.float32)[:, None]


def scores(bias: Bias, table: jax.Array, q: Tokens, k: Tokens) -> jax.Array:
    """What `bias` adds for every pair: q [..., T], k [..., S] -> [N, ..., T, S]."""
    return bias.score(table, q.positions[..., :, None] - k.positions[..., None, :])


def table_gradient(bias: Bias, table: jax.Array, q: Tokens, k: Tokens, ds: jax.Array) -> jax.Array:
    """[N, D]: the gradient of the table from that of the scores, ds [N, ..., T, S]."""
    return jax.vjp(lambda table: scores(bias, table, q, k), table)[1](ds.astype(table.dtype))[0]
