"""The token embedding, and the output head that may be the same weight."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import ModelConfig
from longctx.model.linear import Factored, gathered, operand, product, weight


class Embedding(nnx.Module):
    """Rows of a table [V, D], or of a table with an adapter; the vocabulary may be cut over `tensor`."""

    def __init__(self, key, config: ModelConfig):
        self.dtype = config.dtype
        std = config.embedding_std or config.d_model**-0.5
        self.scale = config.embedding_scale or 1 / std
        shape, dtype = (config.vocab_size, config.d_model), config.param_dtype
        self.table = weight(key, shape, P("tensor", "fsdp"), std**-2, dtype, inputs=1)

    def __call__(self, tokens):
        """Embeddings BTD of tokens BT, scaled."""
        table = operand(self.table, self.dtype)
        adapted = isinstance(table, Factored)
        rows = _rows(table.whole if adapted else table, tokens)
        if adapted:
            rows += product("BTR,RD->BTD", _rows(table.a, tokens), table.b, meshes.HIDDEN)
        return rows * jnp.asarray(self.scale, self.dtype)

    def as_head(self):
        """The table as an output head [D, V]."""
        return gathered(self.table, self.dtype).T


def _rows(table, tokens):
    """The rows [B, T, D] of a table [V, D] that tokens BT name."""
    specs = meshes.specs(table), meshes.TOKENS
    return jax.shard_map(_lookup, in_specs=specs, out_specs=meshes.HIDDEN)(table, tokens)


def _lookup(table, tokens):
    """Embeddings of tokens on one device: each shard of the vocabulary gives its own rows, summed over `tensor`."""
    row = tokens - jax.lax.axis_index("tensor") * table.shape[0]
    inside = (row >= 0) & (row < table.shape[0])
    part = jnp.where(inside[..., None], table[jnp.where(inside, row, 0)], 0)
    return jax.lax.psum(part, "tensor")
