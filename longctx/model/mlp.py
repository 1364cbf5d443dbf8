"""Dense feed-forward layers, and what all feed-forward layers share.

To add one: a subclass of TokenWise, a line in FEED_FORWARDS of block.py.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import MemoryConfig, ModelConfig
from longctx.memory.remat import RECOMPUTED, by_fractions
from longctx.memory.tiled import tiled
from longctx.model.linear import Adapted, constant, operand, product, weight

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class TokenWise(nnx.Module):
    """Base of the feed-forward layers: a function of each token by itself.

    A subclass is made by (key, config, size, memory), size being mlp_dim of its kind of layer. Its own weights are
    attributes, made by `weight` and `constant`, and None where the config has none.

    Attributes:
      reads: the fields of ModelConfig that it reads and that not every feed-forward layer does.
    """

    reads: tuple[str, ...] = ()

    def __init__(self, config: ModelConfig, memory: MemoryConfig):
        self.remat, self.tiles = config.remat, memory.mlp_tiles

    @classmethod
    def check(cls, config: ModelConfig, tensor: int) -> None:
        """Raise UserError where the fields that it reads cannot work with so many shards of `tensor`."""

    def local(self, w: dict[str, jax.Array], tokens: jax.Array, share: str) -> jax.Array:
        """The layer for the tokens [M, D] of one device: [M, D], summed over `tensor`.

        w: the weights by name of attribute, but for those that are None; shares gathered, still cut over `tensor`.
        share: the name (jax.ad_checkpoint.checkpoint_name) of what model.remat may keep for the backward.
        """
        raise NotImplementedError

    def __call__(self, x):
        own = {name: w for name, w in vars(self).items() if isinstance(w, nnx.Param | Adapted)}
        weights = {name: operand(w, x.dtype) for name, w in own.items()}
        specs = meshes.specs(weights)

        def of(x, share):
            local = functools.partial(self._on_device, share)
            return jax.shard_map(local, in_specs=(specs, meshes.HIDDEN), out_specs=meshes.HIDDEN)(weights, x)

        return by_fractions(self.remat, of, x)

    def _on_device(self, share, weights, x):
        weights = jax.lax.pcast(weights, (*meshes.BATCH, *meshes.CONTEXT), to="varying")
        tokens, local = x.reshape(-1, x.shape[-1]), functools.partial(self.local, share=share)
        at_once = self.tiles == 1 or share != RECOMPUTED  # the backward computes tiles again
        out = local(weights, tokens) if at_once else tiled(local, weights, tokens, (), self.tiles)
        return out.reshape(x.shape)


class MLP(TokenWise):
    """down(act(up(x))) with `size` hidden numbers, cut over `tensor`; biases if the config has them."""

    into = ("up",)  # the weights that the tokens go through first

    def __init__(self, key, config: ModelConfig, size: int, memory: MemoryConfig):
        super().__init__(config, memory)
        D, dtype = config.d_model, config.param_dtype
        _, up, down = jax.random.split(key, 3)
        self.activation = config.activation
        residual = size * 2 * config.layers  # fan-in of down: sums of the residual stream stay of order one
        self.up = weight(up, (D, size), P("fsdp", "tensor"), D, dtype, inputs=1)
        self.down = weight(down, (size, D), P("tensor", "fsdp"), residual, dtype, inputs=1)
        self.up_bias = constant(0.0, (size,), P("tensor"), dtype) if config.mlp_bias else None
        self.down_bias = constant(0.0, (D,), P(None), dtype) if config.mlp_bias else None

    def local(self, w, tokens, share):
        into = (checkpoint_name(biased(product("MD,DF->MF", tokens, w[name]), w, name), share) for name in self.into)
        down = jax.lax.psum(product("MF,FD->MD", self.hidden(*into).astype(tokens.dtype), w["down"]), "tensor")
        return biased(down, w, "down")

    def hidden(self, *into):
        """Hidden numbers [M, size] in float32; into: what the weights named in `into` give, [M, size] each."""
        (up,) = into
        return self.activated(up)

    def activated(self, x):
        return ACTIVATIONS[self.activation](x.astype(jnp.float32))


def biased(y, weights, name: str, rows=None):
    """y + the bias of the weight `name`, or y where it has none; rows: the row of the bias for each token, [M]."""
    return y + weights[f"{name}_bias"][rows] if f"{name}_bias" in weights else y


class Gated(MLP):
    """down(act(gate(x)) * up(x)): SwiGLU, GeGLU (arXiv 2002.05202)."""

    into = "gate", "up"

    def __init__(self, key, config: ModelConfig, size: int, memory: MemoryConfig):
        super().__init__(key, config, size, memory)
        gate, *_ = jax.random.split(key, 3)
        D, dtype = config.d_model, config.param_dtype
        self.gate = weight(gate, (D, size), P("fsdp", "tensor"), D, dtype, inputs=1)
        self.gate_bias = constant(0.0, (size,), P("tensor"), dtype) if config.mlp_bias else None

    def hidden(self, *into):
        gate, up = into
        return self.activated(gate) * up
