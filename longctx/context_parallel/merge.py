"""Merging attention over disjoint key sets: the identity that every strategy rests on."""
import jax
import jax.numpy as jnp


def merge(a, b):
    """(out, lse) over the union of two disjoint key sets, from the pair of each. out BTNH and lse BTN in float32.

    A pair with lse = -inf is neutral; two of them give out = 0, lse = -inf, never NaN.
    """
    (out_a, lse_a), (out_b, lse_b) = a, b
    top = jnp.maximum(lse_a, lse_b)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weight_a, weight_b = jnp.exp(lse_a - top), jnp.exp(lse_b - top)
    total = weight_a + weight_b
    safe = jnp.where(total > 0, total, 1.0)
    out = out_a * (weight_a / safe)[..., None] + out_b * (weight_b / safe)[..., None]
    return out, jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)


def cast(result, dtype: jnp.dtype):
    """The pair with out in `dtype`; lse stays float32."""
    return result[0].astype(dtype), result[1]


def neutral(like: jax.Array):
    """The pair of no keys at all, for q or out `like` BTNH."""
    out = jnp.zeros_like(like, jnp.float32)
    return out, out[..., 0] - jnp.inf
