"""The decoder: blocks of attention and feed-forward, those of one kind stacked, all of them scanned."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import AttentionConfig, MemoryConfig, ModelConfig, RopeConfig
from longctx.context_parallel import api as context_parallel
from longctx.memory import bits, host
from longctx.memory.remat import checkpointed
from longctx.model import lora, norm
from longctx.model.block import BLOCKS
from longctx.model.clex import Clex
from longctx.model.embedding import Embedding
from longctx.model.linear import constant, weight, whole
from longctx.positions import rope as rotary
from longctx.positions import scalings
from longctx.positions.view import View, learned_numbers, view
from pallas_kernels.attention.pair import Inputs
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo

SCOPE = "layers"  # of the names of their operations in compiled programs, also of the backward's


class SequenceAttention(NamedTuple):
    """The layers of one kind, attending over the whole sequence by the run's strategy.

    Attributes:
      view: the positions as the layers see them.
      info: positions and segments of the tokens.
      how: kernel, strategy, layout.
      head_groups: see MemoryConfig.
    """

    view: View
    info: TokenInfo
    how: AttentionConfig
    head_groups: int

    def attend(self, at, q, k, v, *, scale, soft_cap, sinks):
        """An attention.Attend of the kind's layer `at`; it keeps nothing."""
        view, parts = self.view, len(self.view.masks)
        specs = [AttentionSpec(mask, scale, view.bias, soft_cap, partial=parts > 1) for mask in view.masks]
        params = None if view.bias_params is None else jnp.asarray(view.bias_params)
        x = Inputs(*view.rotated(q, k), v, self.info, self.info, params)
        plan = context_parallel.call_plan(x, self.how, self.head_groups)
        return context_parallel.attend(x, context_parallel.within_documents(specs), plan, sinks).out, None


def _block(config: ModelConfig, memory: MemoryConfig, kind: int, key) -> nnx.Module:
    """A layer of the kind of that number."""
    block = BLOCKS[config.block](key, config, config.kinds[kind], memory)
    return lora.adapted(key, block, f"blocks.{kind}", config.lora)


class Transformer(nnx.Module):
    """Token ids to hidden states, and the head that turns those into logits.

    blocks: for each kind of layer (layer i is of kind i % kinds) its layers' weights, stacked [layers, ...]; they may
    be host.Weights, or bits.Bits.
    """

    def __init__(self, key, config: ModelConfig, attention: AttentionConfig, memory: MemoryConfig):
        embedding_key, blocks_key, head_key = jax.random.split(key, 3)
        if memory.backward == "streamed":  # it says itself what a layer keeps
            config = dataclasses.replace(config, remat="none")
        self.config, self.attention, self.memory = config, attention, memory
        self.embedding = Embedding(embedding_key, config)
        keys, kinds = jax.random.split(blocks_key, config.layers), config.kinds
        self.blocks = nnx.List(
            [jax.vmap(functools.partial(_block, config, memory, i))(keys[i :: len(kinds)]) for i in range(len(kinds))]
        )
        self.norm = norm.make(config)
        if learned := learned_numbers(config.kinds):
            shape, dtype = (config.heads, learned), config.param_dtype
            self.bias_table = constant(0.0, shape, P("tensor", None), dtype, decay=True)
        if scalings.of(config.rope).learned:
            self.clex = Clex(jax.random.fold_in(key, 0), config.rope, config.head_dim, config.param_dtype)
        if not config.tied_head:
            shape, dtype = (config.d_model, config.vocab_size), config.param_dtype
            self.head = weight(head_key, shape, P("fsdp", "tensor"), config.d_model, dtype, inputs=1)
            lora.adapt_ends(key, self, config.lora)

    def __call__(self, tokens, info: TokenInfo, rope: RopeConfig | None = None, stretch=None, length=None):
        """Hidden states BTD, ready for the head; tokens int32 [B, T], info their positions and segments.

        `rope` replaces the config's own, as the stages of a curriculum do. stretch: of each row, see rope.tables.
        length: what a RoPE scaling takes the rows' to be; default T.
        """
        info = TokenInfo(*(jnp.asarray(x, jnp.int32) for x in info))
        kinds, view_of = self.config.kinds, self.views(rope, length or tokens.shape[1], stretch)
        views = {kind: view_of(kind, info.positions) for kind in kinds}
        groups = self.memory.head_groups
        attends = [SequenceAttention(views[kind], info, self.attention, groups).attend for kind in kinds]
        return self.through(tokens, attends)[0]

    def views(self, rope: RopeConfig | None, length: int | tuple[int, ...], stretch=None):
        """A function (kind, positions int32 [B, T]) -> View: the positions as layers of a kind see them, once per step.

        length: what a RoPE scaling takes the rows' to be, or each row's.
        """
        config = self.config
        learned = jnp.asarray(self.bias_table) if learned_numbers(config.kinds) else None

        def tables(rope, positions, divisor):
            amplitude = 1.0 if config.qk_norm == "l2" else None  # norms of rotated queries and keys stay 1
            make = self.clex.tables if scalings.of(rope).learned else rotary.tables
            return make(positions, rope, config.head_dim, length, stretch, divisor, amplitude)

        return lambda kind, positions: view(
            kind, positions, config.heads, functools.partial(tables, kind.rope or rope or config.rope), learned
        )

    def through(self, tokens, attends):
        """(hidden states BTD, what the layers of each kind keep, stacked over the layers) of tokens [B, T].

        attends: for each kind of layer an attention.Attend, with the number of the layer in its kind as one more
        argument before all others.
        """
        x = self.embedding(tokens)
        with jax.named_scope(SCOPE):
            x, kept = self._through_blocks(x, attends)
        return self.to_head(x), kept

    def to_head(self, x):
        """The input of the head BTD, from the last layer's result BTD."""
        x, scale = self.norm(x), self.config.logit_scale
        return x if scale == 1 else x * jnp.asarray(scale, x.dtype)

    def _through_blocks(self, x, attends):
        """A scan over groups of one layer of each kind, then the layers that are left over."""

        def layer(attend):
            run = lambda x, block, at: bits.restored(host.fetched(block))(x, functools.partial(attend, at))
            return checkpointed(run, self.config.remat)

        layers, groups = [layer(attend) for attend in attends], self.config.layers // len(attends)

        def group(x, blocks_at):
            kept, at = [], blocks_at[1]
            for layer, block in zip(layers, blocks_at[0], strict=True):
                x, of_layer = layer(x, block, at)
                kept.append(of_layer)
            return x, kept

        # [:groups] of the kinds that have no layer left over copies nothing
        blocks = [jax.tree.map(lambda w: w[:groups], stack) for stack in self.blocks]
        x, kept = jax.lax.scan(group, x, (blocks, jnp.arange(groups)))
        for i in range(self.config.layers % len(attends)):
            x, of_layer = layers[i](x, jax.tree.map(lambda w: w[groups], self.blocks[i]), groups)
            kept[i] = jax.tree.map(lambda stack, last: jnp.concatenate([stack, last[None]]), kept[i], of_layer)
        return x, kept

    def logits(self, x, out_spec=meshes.LOGITS):
        """All logits in float32, [..., V] of hidden states [..., D], sharded by `out_spec`."""
        logits = jnp.einsum(
            "...D,DV->...V", x, self.head_weight(), preferred_element_type=jnp.float32, out_sharding=out_spec
        )
        cap = self.config.logit_soft_cap
        return cap * jnp.tanh(logits / cap) if cap else logits

    def head_weight(self):
        """The output head [D, V] in the compute dtype, gathered from its shards, with what its adapter adds."""
        if self.config.tied_head:
            return self.embedding.as_head()
        return whole(self.head, self.config.dtype)
