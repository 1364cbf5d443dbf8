"""The norms. To add one: a class, a line in NORMS. Computed in float32, results in x's dtype."""

import jax
import jax.numpy as jnp
from flax import nnx

from longctx.config import ModelConfig
from longctx.model.linear import constant


class RMSNorm(nnx.Module):
    """x / rms(x) * (offset + scale) over the last axis."""

    def __init__(self, size: int, config: ModelConfig):
        self.eps, self.offset = config.norm_eps, config.norm_offset
        self.scale = constant(1.0 - self.offset, "scale", (size,), config.param_dtype)

    def __call__(self, x):
        return self.wide(x.astype(jnp.float32)).astype(x.dtype)

    def wide(self, x):
        return normalized(x, self.eps) * (self.offset + _row(self.scale, x))


class LayerNorm(RMSNorm):
    """RMSNorm of x - mean(x)."""

    def wide(self, x):
        return super().wide(x - jnp.mean(x, -1, keepdims=True))


class BiasedLayerNorm(LayerNorm):
    """LayerNorm + bias."""

    def __init__(self, size: int, config: ModelConfig):
        super().__init__(size, config)
        self.bias = constant(0.0, "bias", (size,), config.param_dtype)

    def wide(self, x):
        return super().wide(x) + _row(self.bias, x)


NORMS = {"rms": RMSNorm, "layer": LayerNorm, "layer_bias": BiasedLayerNorm}


def make(config: ModelConfig):
    """A norm of the model's kind, over its width."""
    return NORMS[config.norm](config.d_model, config)


def normalized(x, eps: float):
    """x / rms(x) over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)


def _row(weight, x):
    """A weight [size] in float32, as a row that broadcasts over all but x's last axis."""
    return jnp.asarray(weight).astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
