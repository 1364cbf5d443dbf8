"""The choice of the next token from its logits."""

import math

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
    logits, token = jax.lax.top_k(logits, logits.shape[-1])  # sorted
    # the largest becomes 0 before the division, which may overflow: at any temperature exp() is 1 there, and not NaN
    below = jnp.where(logits == logits[:, :1], 0.0, logits - logits[:, :1])
    logits = _kept(below / min(max(sampling.temperature, _LEAST), _MOST), sampling)
    rank = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.take_along_axis(token, rank[:, None], -1)[:, 0]


def _penalised(logits, seen, penalty: float):
    """Logits in which the tokens that a row has seen are less likely.

    A positive logit is divided by `penalty`, a negative one multiplied, as transformers has it: a shift of all logits
    would change the result.
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def _kept(logits, sampling: Sampling):
    """Logits [B, V], sorted and 0 at most, with -inf for the tokens that cannot be drawn."""
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = jnp.where(jnp.arange(logits.shape[-1]) < sampling.top_k, logits, -jnp.inf)
    least = math.log(sampling.min_p) if sampling.min_p else -math.inf
    enough = logits >= least
    if sampling.top_p < 1:
        probability = jax.nn.softmax(logits, -1)
        likelier = jnp.cumsum(probability, -1) - probability  # of all tokens before each one
        enough &= likelier < max(sampling.top_p, _LEAST)
    return jnp.where(enough, logits, -jnp.inf)
