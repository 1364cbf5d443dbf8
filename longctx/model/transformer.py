"""A Llama-style decoder: pre-norm blocks of attention and SwiGLU, stacked and scanned."""
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from longctx import meshes
from longctx.config import AttentionConfig, ModelConfig, RopeConfig
from longctx.model.attention import Attention
from longctx.model.embedding import Embedding
from longctx.model.linear import constant, weight
from longctx.model.mlp import MLP
from longctx.model.norm import RMSNorm
from longctx.model.remat import checkpointed
from longctx.positions import rope as rotary
from longctx.positions.clex import Clex
from longctx.positions.view import View, learned_numbers, view
from pallas_kernels.masks import Tokens


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, key, config: ModelConfig, attention: AttentionConfig):
        attention_key, mlp_key = jax.random.split(key)
        self.attention_norm = RMSNorm(config.embed, config.norm_eps, config.param_dtype)
        self.attention = Attention(attention_key, config, attention)
        self.mlp_norm = RMSNorm(config.embed, config.norm_eps, config.param_dtype)
        self.mlp = MLP(mlp_key, config)

    def __call__(self, x, tokens: Tokens, view: View):
        x = x + self.attention(self.attention_norm(x), tokens, view)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nnx.Module):
    """Token ids to hidden states, and the head that turns those into logits. Block weights are stacked [L, ...]."""

    def __init__(self, key, config: ModelConfig, attention: AttentionConfig):
        embedding_key, blocks_key, head_key = jax.random.split(key, 3)
        self.config = config
        self.embedding = Embedding(embedding_key, config)
        self.blocks = jax.vmap(lambda k: Block(k, config, attention))(jax.random.split(blocks_key, config.layers))
        self.norm = RMSNorm(config.embed, config.norm_eps, config.param_dtype)
        if learned := learned_numbers(config.kinds):
            self.bias_table = constant(0.0, "bias_table", (config.heads, learned), config.param_dtype)
        if config.rope.scaling == "clex":
            self.clex = Clex(jax.random.fold_in(key, 0), config.rope, config.head_size, config.param_dtype)
        if not config.tied_head:
            self.head = weight(head_key, "head", (config.embed, config.vocab_size), config.embed, config.param_dtype)

    def __call__(self, tokens, where: Tokens, rope: RopeConfig | None = None, stretch=None, length=None):
        """Hidden states BTD after the last norm; tokens int32 [B, T], `where` their positions and segments.

        `rope` replaces the config's own, as the stages of a curriculum do. stretch: of each row, see rope.tables.
        length: what a RoPE scaling takes the rows' to be; default T.
        """
        rope, length = rope or self.config.rope, length or tokens.shape[1]
        views = self._views(where.positions, rope, stretch, length)
        return self.norm(self._through_blocks(self.embedding(tokens), where, views))

    def _views(self, positions, rope, stretch, length):
        """What the layers of each kind see of positions; made once per step."""
        config = self.config
        learned = jnp.asarray(self.bias_table) if learned_numbers(config.kinds) else None

        def tables(rope, positions, divisor):
            make = self.clex.tables if rope.scaling == "clex" else rotary.tables
            return make(positions, rope, config.head_size, length, stretch, divisor)

        made = {kind: view(kind, positions, config.heads, functools.partial(tables, kind.rope or rope), learned)
                for kind in config.kinds}
        return [made[kind] for kind in config.kinds]

    def _through_blocks(self, x, where, views):
        """A scan over groups of one layer of each kind, then the layers that are left over."""
        def layer(view):
            return checkpointed(lambda x, block: block(x, where, view), self.config.remat)

        layers = [layer(view) for view in views]
        kinds, left_over = len(layers), self.config.layers % len(layers)
        whole = self.config.layers - left_over
        # the weights of the layers of each kind: of a single one they are not copied
        by_kind = [jax.tree.map(lambda w, i=i: w[i:whole:kinds], self.blocks) for i in range(kinds)]

        def group(x, blocks):
            for layer, block in zip(layers, blocks, strict=True):
                x = layer(x, block)
            return x, None

        x, _ = jax.lax.scan(group, x, by_kind)
        for i in range(left_over):
            x = layers[i](x, jax.tree.map(lambda w, i=i: w[whole + i], self.blocks))
        return x

    def head_weight(self):
        """The output head [D, V] in the compute dtype, its fsdp share gathered."""
        if self.config.tied_head:
            return self.embedding.as_head()
        return meshes.gather_weight(jnp.asarray(self.head).astype(self.config.dtype), "head")
