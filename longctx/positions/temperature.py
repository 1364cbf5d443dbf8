"""Factors on queries that grow with their position, so that attention over more keys stays as sharp.

Each gives float32 factors, of the shape of the positions, for queries BTNH as q * factor[:, :, None, None].
"""
import math

import jax
import jax.numpy as jnp


def llama4(positions: jax.Array, floor_scale: int = 8192, attn_scale: float = 0.1) -> jax.Array:
    """1 + attn_scale * ln(1 + floor((position + 1) / floor_scale)): for the layers without RoPE of Llama 4."""
    return 1 + attn_scale * jnp.log1p(((positions + 1) // floor_scale).astype(jnp.float32))


def log_length(positions: jax.Array, length: int) -> jax.Array:
    """ln(position + 1) / ln(length), at least 1: "log n" beyond a trained length, an option of Self-Extend."""
    return jnp.maximum(jnp.log1p(positions.astype(jnp.float32)) / math.log(length), 1.0)
