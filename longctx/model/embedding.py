"""The token embedding, and the output head that may be the same weight."""

import jax
import jax.numpy as jnp
from flax import nnx

from longctx import meshes
from longctx.config import ModelConfig
from longctx.model.linear import weight


class Embedding(nnx.Module):
    """Rows of a table [V, D]; the vocabulary may be cut over `tensor`."""

    def __init__(self, key, config: ModelConfig):
        self.dtype = config.dtype
        std = config.embedding_std or config.d_model**-0.5
        self.scale = config.embedding_scale or 1 / std
        self.table = weight(key, "table", (config.vocab_size, config.d_model), std**-2, config.param_dtype)

    def __call__(self, tokens):
        """Embeddings BTD of tokens BT, scaled."""
        table = self._gathered()
        return jax.shard_map(_lookup, in_specs=(meshes.specs(table), meshes.TOKENS), out_specs=meshes.HIDDEN)(
            table, tokens
        ) * jnp.asarray(self.scale, self.dtype)

    def as_head(self):
        """The table as an output head [D, V]."""
        return self._gathered().T

    def _gathered(self):
        return meshes.gather_weight(jnp.asarray(self.table).astype(self.dtype), "table")


def _lookup(table, tokens):
    """Each shard of the vocabulary gives the rows it holds; their sum over `tensor` is the embedding."""
    row = tokens - jax.lax.axis_index("tensor") * table.shape[0]
    mine = (row >= 0) & (row < table.shape[0])
    found = jnp.where(mine[..., None], table[jnp.where(mine, row, 0)], 0)
    return jax.lax.psum(found, "tensor")
