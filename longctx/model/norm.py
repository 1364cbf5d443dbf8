"""RMSNorm."""
import jax
import jax.numpy as jnp
from flax import nnx

from longctx.model.linear import constant


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis; statistics in float32, result in x's dtype."""

    def __init__(self, size: int, eps: float, dtype: str):
        self.eps = eps
        self.scale = constant(1.0, "scale", (size,), dtype)

    def __call__(self, x):
        wide = x.astype(jnp.float32)
        scale = jnp.asarray(self.scale).astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
        return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps) * scale).astype(x.dtype)
