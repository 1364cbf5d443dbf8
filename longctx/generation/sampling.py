"""The choice of the next token from its logits."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx.errors import as_user_error
from longctx.generation.request import Sampling
from pallas_kernels.arguments import require_floats

_LEAST, _MOST = (float(bound) for bound in (jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).max))


def sample(logits, key, seen=None, **numbers):
    """Tokens int32 [B] drawn from softmax(logits / temperature), or the likeliest ones at temperature 0.

    A row's draw depends on the key and the row's index alone, not on how many rows there are.

    Args:
      logits: float32 [B, V].
      seen: bool [B, V], the tokens that each row has; needed where there is a repetition_penalty.
      numbers: the fields of Sampling.

    Raises UserError for a number that Sampling refuses, or logits of another shape or dtype.
    """
    sampling = Sampling(**numbers).check()
    as_user_error(require_floats, "logits", logits, "BV")
    if sampling.repetition_penalty != 1:
        logits = _penalised(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(logits)))
    return drawn(logits, keys, divisor(sampling), Kept.by(sampling))


class Kept(NamedTuple):
    """What Sampling keeps of the tokens: numbers, or arrays [B, 1] of the rows' numbers.

    Attributes:
      top_k, top_p: see Sampling.
      least: the logarithm of min_p.
    """

    top_k: jax.Array | int
    top_p: jax.Array | float
    least: jax.Array | float

    @classmethod
    def by(cls, sampling: Sampling) -> "Kept | None":
        """The numbers of `sampling`; None where no token is left out."""
        if (sampling.top_k, sampling.top_p, sampling.min_p) == (0, 1, 0):
            return None
        least = math.log(sampling.min_p) if sampling.min_p else -math.inf
        return cls(int(sampling.top_k), max(float(sampling.top_p), _LEAST), least)


def divisor(sampling: Sampling) -> float:
    """The temperature, within the range of float32."""
    return min(max(float(sampling.temperature), _LEAST), _MOST)


def drawn(logits, keys, temperature, kept: Kept | None):
    """Tokens int32 [B], each drawn by a key of its own; temperature: a number, or [B, 1], above 0."""
    logits, token = jax.lax.top_k(logits, logits.shape[-1])  # sorted
    # the largest becomes 0 before the division, which may overflow: at any temperature exp() is 1 there, and not NaN
    below = jnp.where(logits == logits[:, :1], 0.0, logits - logits[:, :1]) / temperature
    rank = jax.vmap(jax.random.categorical)(keys, below if kept is None else _without_others(below, kept))
    return jnp.take_along_axis(token, rank[:, None], -1)[:, 0]


def _penalised(logits, seen, penalty: float):
    """Logits in which the tokens that a row has seen are less likely.

    A positive logit is divided by `penalty`, a negative one multiplied, as transformers has it: a shift of all logits
    would change the result.
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def _without_others(logits, kept: Kept):
    """Logits [B, V], sorted and 0 at most, with -inf for the tokens that cannot be drawn."""
    some = (kept.top_k == 0) | (jnp.arange(logits.shape[-1])[None] < kept.top_k)
    logits = jnp.where(some, logits, -jnp.inf)
    probability = jax.nn.softmax(logits, -1)
    likelier = jnp.cumsum(probability, -1) - probability  # of all tokens before each one
    enough = (logits >= kept.least) & ((kept.top_p >= 1) | (likelier < kept.top_p))
    return jnp.where(enough, logits, -jnp.inf)
