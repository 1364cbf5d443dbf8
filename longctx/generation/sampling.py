"""The choice of the next token from its logits."""

import jax
import jax.numpy as jnp

from longctx.errors import as_user_error
from longctx.generation.request import check_sampling
from pallas_kernels.arguments import require_floats

_LEAST, _MOST = (float(bound) for bound in (jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).max))


def sample(logits, key, temperature: float = 0.0, top_p: float = 1.0):
    """Tokens int32 [B] drawn from softmax(logits / temperature), or the likeliest ones at temperature 0.

    A row's draw depends on the key and the row's index alone, not on how many rows there are.

    Args:
      logits: float32 [B, V].
      top_p: only the fewest likeliest tokens whose probabilities sum to at least top_p can be drawn (nucleus sampling,
        arXiv 1904.09751).

    Raises UserError for a temperature or top_p out of range, or logits of another shape or dtype.
    """
    check_sampling(temperature, top_p)
    as_user_error(require_floats, "logits", logits, "BV")
    if temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(logits)))
    logits, token = jax.lax.top_k(logits, logits.shape[-1])  # sorted
    # the largest becomes 0 before the division, which may overflow: at any temperature exp() is 1 there, and not NaN
    below = jnp.where(logits == logits[:, :1], 0.0, logits - logits[:, :1])
    logits = below / min(max(temperature, _LEAST), _MOST)
    if top_p < 1:
        probability = jax.nn.softmax(logits, -1)
        likelier = jnp.cumsum(probability, -1) - probability  # of all tokens before each one
        logits = jnp.where(likelier < max(top_p, _LEAST), logits, -jnp.inf)
    rank = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.take_along_axis(token, rank[:, None], -1)[:, 0]
