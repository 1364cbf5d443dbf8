"""Dense feed-forward layers, and what all feed-forward layers share."""
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from longctx import meshes
from longctx.config import ModelConfig
from longctx.model.linear import constant, weight
from longctx.tiles import tiled

ACTIVATIONS = {"silu": jax.nn.silu, "gelu": functools.partial(jax.nn.gelu, approximate=False),
               "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


class TokenWise(nnx.Module):
    """What each token becomes by itself: `local`, of one device's tokens, over `tiles` of them (memory.mlp_tiles).

    names: the weights, attributes of a module, that `local` takes; those that are None are left out.
    """
    names: tuple[str, ...] = ()

    def __init__(self, tiles: int):
        self.tiles = tiles

    def __call__(self, x):
        mine = {name: jnp.asarray(w) for name in self.names if (w := getattr(self, name)) is not None}
        cuts = {name: meshes.gathered_spec(name) for name in mine}
        weights = {name: meshes.gather_weight(w.astype(x.dtype), name) for name, w in mine.items()}
        return jax.shard_map(self._over_tiles, in_specs=(cuts, meshes.HIDDEN), out_specs=meshes.HIDDEN)(weights, x)

    def _over_tiles(self, weights, x):
        weights = jax.lax.pcast(weights, (*meshes.BATCH, *meshes.CONTEXT), to="varying")
        tokens = x.reshape(-1, x.shape[-1])
        out = self.local(weights, tokens) if self.tiles == 1 else tiled(self.local, weights, tokens, (), self.tiles)
        return out.reshape(x.shape)


class MLP(TokenWise):
    """down(act(up(x))), of `size` hidden numbers, cut over `tensor`; biases if the config has them."""
    names = "up", "down", "up_bias", "down_bias"

    def __init__(self, key, config: ModelConfig, size: int, tiles: int):
        super().__init__(tiles)
        D, dtype = config.embed, config.param_dtype
        _, up, down = jax.random.split(key, 3)
        self.activation = config.activation
        self.up = weight(up, "up", (D, size), D, dtype)
        self.down = weight(down, "down", (size, D), size * 2 * config.layers, dtype)       # residual sums: order one
        self.up_bias = constant(0.0, "up_bias", (size,), dtype) if config.mlp_bias else None
        self.down_bias = constant(0.0, "down_bias", (D,), dtype) if config.mlp_bias else None

    def local(self, w, x):
        down = jax.lax.psum(self.hidden(w, x).astype(x.dtype) @ w["down"], "tensor")
        return biased(down, w, "down")

    def hidden(self, w, x):
        return self.activated(self.through(w, "up", x))

    def activated(self, x):
        return ACTIVATIONS[self.activation](x.astype(jnp.float32))

    def through(self, w, name: str, x):
        return biased(x @ w[name], w, name)


def biased(y, weights, name: str, rows=None):
    """y + its bias, if there is one; rows: which of its rows each token has, as of its expert."""
    return y + weights[f"{name}_bias"][rows] if f"{name}_bias" in weights else y


class Gated(MLP):
    """down(act(gate(x)) * up(x)): SwiGLU, GeGLU."""
    names = *MLP.names, "gate", "gate_bias"

    def __init__(self, key, config: ModelConfig, size: int, tiles: int):
        super().__init__(key, config, size, tiles)
        gate, *_ = jax.random.split(key, 3)
        self.gate = weight(gate, "gate", (config.embed, size), config.embed, config.param_dtype)
        self.gate_bias = constant(0.0, "gate_bias", (size,), config.param_dtype) if config.mlp_bias else None

    def hidden(self, w, x):
        return self.activated(self.through(w, "gate", x)) * self.through(w, "up", x)
