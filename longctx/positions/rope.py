"""Rotary position embedding in the "rotate half" pairing (i, i + d/2), the one of Llama, Qwen and Mistral weights."""
import jax
import jax.numpy as jnp

from longctx.config import RopeConfig
from longctx.positions import api


def tables(positions: jax.Array, config: RopeConfig, head_size: int) -> tuple[jax.Array, jax.Array]:
    """cos and sin of position * frequency, float32 [B, T, H/2]; made once per step and shared by all layers."""
    inv_freq, temperature = api.frequencies(config, head_size)
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(inv_freq, jnp.float32)[None, None]
    return jnp.cos(angles) * temperature, jnp.sin(angles) * temperature


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """x BTNH rotated by its positions' tables [B, T, H/2]; computed in float32, returned in x's dtype."""
    cos, sin = (t[:, :, None] for t in table)                                     # BT1h
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
