"""Results (out, lse) of attention, as what cuts it passes them on. How two merge is said in attention/reference.py."""

import jax
import jax.numpy as jnp


def merge_shards(pair, axis):
    """(out, lse) over the key sets of all shards of `axis`, which hold the same queries: each gets its part of them."""
    out, lse = pair
    top = jax.lax.pmax(lse, axis)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weight = jnp.exp(lse - top)
    scatter = lambda x: jax.lax.psum_scatter(x, axis, scatter_dimension=1, tiled=True)
    total = scatter(weight)
    safe = jnp.where(total > 0, total, 1.0)
    queries = total.shape[1]
    top = jax.lax.dynamic_slice_in_dim(top, jax.lax.axis_index(axis) * queries, queries, 1)
    return scatter(out * weight[..., None]) / safe[..., None], jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)


def with_sinks(out, lse, sinks):
    """(out, lse) with one more key in every softmax: of logit sinks[n], and of no value."""
    total = jnp.logaddexp(lse, sinks.astype(lse.dtype)[None, None])
    return (out * jnp.exp(lse - total)[..., None]).astype(out.dtype), total


def cast(result, dtype: jnp.dtype):
    """The pair with out in `dtype`; lse stays float32."""
    return result[0].astype(dtype), result[1]


def neutral(like: jax.Array):
    """The pair of no keys at all, for q or out `like` BTNH."""
    out = jnp.zeros_like(like, jnp.float32)
    return out, out[..., 0] - jnp.inf
