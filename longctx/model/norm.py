"""The norms. To add one: a class, a line in NORMS. Computed in float32, results in x's dtype."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from longctx.config import ModelConfig
from longctx.model.linear import constant


class RMSNorm(nnx.Module):
    """Root mean square norm: x / rms(x) * (offset + scale) over the last axis (arXiv 1910.07467)."""

    def __init__(self, size: int, config: ModelConfig):
        self.eps, self.offset = config.norm_eps, config.norm_offset
        self.scale = constant(1.0 - self.offset, (size,), P(None), config.param_dtype)

    def __call__(self, x):
        return self.wide(x.astype(jnp.float32)).astype(x.dtype)

    def wide(self, x):
        return normalized(x, self.eps) * (self.offset + _row(self.scale, x))


class LayerNorm(RMSNorm):
    """RMSNorm applied to x - mean(x) (arXiv 1607.06450, without a bias)."""

    def wide(self, x):
        return super().wide(x - jnp.mean(x, -1, keepdims=True))


class BiasedLayerNorm(LayerNorm):
    """Layer norm with a bias: LayerNorm(x) + bias."""

    def __init__(self, size: int, config: ModelConfig):
        super().__init__(size, config)
        self.bias = constant(0.0, (size,), P(None), config.param_dtype)

    def wide(self, x):
        return super().wide(x) + _row(self.bias, x)


NORMS = {"rms": RMSNorm, "layer": LayerNorm, "layer_bias": BiasedLayerNorm}


def make(config: ModelConfig):
    """The norm that config.norm names, over the d_model numbers of a token."""
    return NORMS[config.norm](config.d_model, config)


def normalized(x, eps: float):
    """x / rms(x) over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)


def _row(weight, x):
    """A weight [size] in float32, shaped to broadcast over all axes of x but the last."""
    return jnp.asarray(weight).astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
