"""Dense feed-forward layers."""
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from longctx import meshes
from longctx.config import ModelConfig
from longctx.model.linear import constant, project, weight

ACTIVATIONS = {"silu": jax.nn.silu, "gelu": functools.partial(jax.nn.gelu, approximate=False),
               "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


class MLP(nnx.Module):
    """down(act(up(x))), of `size` hidden numbers; biases if the config has them."""

    def __init__(self, key, config: ModelConfig, size: int):
        D, dtype = config.embed, config.param_dtype
        _, up, down = jax.random.split(key, 3)
        self.activation = config.activation
        self.up = weight(up, "up", (D, size), D, dtype)
        self.down = weight(down, "down", (size, D), size * 2 * config.layers, dtype)       # residual sums: order one
        self.up_bias = constant(0.0, "up_bias", (size,), dtype) if config.mlp_bias else None
        self.down_bias = constant(0.0, "down_bias", (D,), dtype) if config.mlp_bias else None

    def __call__(self, x):
        return self.project_down(self.activated(self.project_up(x)).astype(x.dtype))

    def activated(self, x):
        return ACTIVATIONS[self.activation](x.astype(jnp.float32))

    def project_up(self, x):
        return project("BTD,DF->BTF", x, self.up, "up", meshes.MLP, self.up_bias)

    def project_down(self, hidden):
        return project("BTF,FD->BTD", hidden, self.down, "down", meshes.HIDDEN, self.down_bias)


class Gated(MLP):
    """down(act(gate(x)) * up(x)): SwiGLU, GeGLU."""

    def __init__(self, key, config: ModelConfig, size: int):
        super().__init__(key, config, size)
        gate, *_ = jax.random.split(key, 3)
        self.gate = weight(gate, "gate", (config.embed, size), config.embed, config.param_dtype)
        self.gate_bias = constant(0.0, "gate_bias", (size,), config.param_dtype) if config.mlp_bias else None

    def __call__(self, x):
        gate = project("BTD,DF->BTF", x, self.gate, "gate", meshes.MLP, self.gate_bias)
        return self.project_down((self.activated(gate) * self.project_up(x)).astype(x.dtype))
