"""SwiGLU."""
import jax
import jax.numpy as jnp
from flax import nnx

from longctx import meshes
from longctx.config import ModelConfig
from longctx.model.linear import project, weight


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, key, config: ModelConfig):
        D, F, dtype = config.embed, config.mlp, config.param_dtype
        gate, up, down = jax.random.split(key, 3)
        self.gate = weight(gate, "gate", (D, F), D, dtype)
        self.up = weight(up, "up", (D, F), D, dtype)
        self.down = weight(down, "down", (F, D), F * 2 * config.layers, dtype)       # residual sums stay of order one

    def __call__(self, x):
        gate = project("BTD,DF->BTF", x, self.gate, "gate", meshes.MLP)
        up = project("BTD,DF->BTF", x, self.up, "up", meshes.MLP)
        hidden = (jax.nn.silu(gate.astype(jnp.float32)) * up).astype(x.dtype)
        return project("BTF,FD->BTD", hidden, self.down, "down", meshes.HIDDEN)
