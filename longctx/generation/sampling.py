"""How the next token is chosen."""
import jax
import jax.numpy as jnp


def sample(logits, key, temperature: float = 0.0, top_p: float = 1.0):
    """int32 [B] from logits float32 [B, V]: drawn from softmax(logits / temperature), or the largest at temperature 0.

    top_p: of each row only the likeliest tokens can be drawn, as few as have that much probability together (nucleus
    sampling, arXiv 1904.09751). A row's draw depends on the key and its index alone, not on how many rows there are.
    """
    if temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(logits)))
    logits, token = jax.lax.top_k(logits / temperature, logits.shape[-1])           # sorted
    share = jax.nn.softmax(logits, -1)
    before = jnp.cumsum(share, -1) - share
    logits = jnp.where(before < top_p, logits, -jnp.inf)
    place = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.take_along_axis(token, place[:, None], -1)[:, 0]
