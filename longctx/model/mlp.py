"""Dense feed-forward layers, and what all feed-forward layers share."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from longctx import meshes
from longctx.config import MemoryConfig, ModelConfig
from longctx.memory.remat import RECOMPUTED, by_fractions
from longctx.memory.tiled import tiled
from longctx.model.linear import constant, weight

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class TokenWise(nnx.Module):
    """What each token becomes by itself: `local`, of one device's tokens.

    names: the weights, attributes of a module, that `local` takes; those that are None are left out.
    local: (weights, tokens [M, D], share) -> [M, D]; model.remat says what is kept of what it names `share`.
    """

    names: tuple[str, ...] = ()

    def __init__(self, config: ModelConfig, memory: MemoryConfig):
        self.remat, self.tiles = config.remat, memory.mlp_tiles

    def __call__(self, x):
        mine = {name: jnp.asarray(w) for name in self.names if (w := getattr(self, name)) is not None}
        weights = {name: meshes.gather_weight(w.astype(x.dtype), name) for name, w in mine.items()}
        cuts = meshes.specs(weights)

        def of(x, share):
            local = functools.partial(self._on_device, share)
            return jax.shard_map(local, in_specs=(cuts, meshes.HIDDEN), out_specs=meshes.HIDDEN)(weights, x)

        return by_fractions(self.remat, of, x)

    def _on_device(self, share, weights, x):
        weights = jax.lax.pcast(weights, (*meshes.BATCH, *meshes.CONTEXT), to="varying")
        tokens, local = x.reshape(-1, x.shape[-1]), functools.partial(self.local, share=share)
        at_once = self.tiles == 1 or share != RECOMPUTED  # the backward computes tiles again
        out = local(weights, tokens) if at_once else tiled(local, weights, tokens, (), self.tiles)
        return out.reshape(x.shape)


class MLP(TokenWise):
    """down(act(up(x))), of `size` hidden numbers, cut over `tensor`; biases if the config has them."""

    names = "up", "down", "up_bias", "down_bias"
    into = ("up",)  # the weights that the tokens go through first

    def __init__(self, key, config: ModelConfig, size: int, memory: MemoryConfig):
        super().__init__(config, memory)
        D, dtype = config.d_model, config.param_dtype
        _, up, down = jax.random.split(key, 3)
        self.activation = config.activation
        self.up = weight(up, "up", (D, size), D, dtype)
        self.down = weight(down, "down", (size, D), size * 2 * config.layers, dtype)  # residual sums: order one
        self.up_bias = constant(0.0, "up_bias", (size,), dtype) if config.mlp_bias else None
        self.down_bias = constant(0.0, "down_bias", (D,), dtype) if config.mlp_bias else None

    def local(self, w, x, share):
        into = (checkpoint_name(biased(x @ w[name], w, name), share) for name in self.into)
        down = jax.lax.psum(self.hidden(*into).astype(x.dtype) @ w["down"], "tensor")
        return biased(down, w, "down")

    def hidden(self, up):
        return self.activated(up)

    def activated(self, x):
        return ACTIVATIONS[self.activation](x.astype(jnp.float32))


def biased(y, weights, name: str, rows=None):
    """y + its bias, if there is one; rows: which of its rows each token has, as of its expert."""
    return y + weights[f"{name}_bias"][rows] if f"{name}_bias" in weights else y


class Gated(MLP):
    """down(act(gate(x)) * up(x)): SwiGLU, GeGLU."""

    names = *MLP.names, "gate", "gate_bias"
    into = "gate", "up"

    def __init__(self, key, config: ModelConfig, size: int, memory: MemoryConfig):
        super().__init__(key, config, size, memory)
        gate, *_ = jax.random.split(key, 3)
        self.gate = weight(gate, "gate", (config.d_model, size), config.d_model, config.param_dtype)
        self.gate_bias = constant(0.0, "gate_bias", (size,), config.param_dtype) if config.mlp_bias else None

    def hidden(self, gate, up):
        return self.activated(gate) * up
