"""The token embedding, and the output head that may be the same weight."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import ModelConfig
from longctx.model.linear import gathered, weight


class Embedding(nnx.Module):
    """Rows of a table [V, D]; the vocabulary may be cut over `tensor`."""

    def __init__(self, key, config: ModelConfig):
        self.dtype = config.dtype
        std = config.embedding_std or config.d_model**-0.5
        self.scale = config.embedding_scale or 1 / std
        shape, dtype = (config.vocab_size, config.d_model), config.param_dtype
        self.table = weight(key, shape, P("tensor", "fsdp"), std**-2, dtype)

    def __call__(self, tokens):
        """Embeddings BTD of tokens BT, scaled."""
        table = gathered(self.table, self.dtype)
        return jax.shard_map(_lookup, in_specs=(meshes.specs(table), meshes.TOKENS), out_specs=meshes.HIDDEN)(
            table, tokens
        ) * jnp.asarray(self.scale, self.dtype)

    def as_head(self):
        """The table as an output head [D, V]."""
        return gathered(self.table, self.dtype).T


def _lookup(table, tokens):
    """Embeddings of tokens on one device: each shard of the vocabulary gives its own rows, summed over `tensor`."""
    row = tokens - jax.lax.axis_index("tensor") * table.shape[0]
    inside = (row >= 0) & (row < table.shape[0])
    part = jnp.where(inside[..., None], table[jnp.where(inside, row, 0)], 0)
    return jax.lax.psum(part, "tensor")
