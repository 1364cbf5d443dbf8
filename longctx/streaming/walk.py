"""Forward through the layers of the model and back, with a chunk of every row at a time on its way through one layer.

The residual stream of all tokens is a stack, of slots of n chunks each. With every = memory.residual_every, slot s
holds the input of layer s * every, the last one the result of all layers, and behind it are `every` - 1 slots for what
lies between two of these, computed again on the way back. Nothing else is as long as a row but one layer's keys and
values, with their gradients, and the gradient of the stream; and with memory.keep_attention the pairs (out, lse) of
attention: of all layers, or where every > 1 of those computed again.

Layers are taken by sections, of whole patterns of kinds and whole slots, in a loop; within a section each is compiled.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from longctx import meshes, trained
from longctx.config import Config, RopeConfig
from longctx.context_parallel.api import within_documents
from longctx.loss import by_source, token_loss
from longctx.memory import host
from longctx.memory.host import Section, Stack
from longctx.model import functional, paths
from longctx.streaming import layer as layerwise
from longctx.streaming.attention import ChunkAttention, plan_of_chunks, visits
from pallas_kernels.attention.pair import Pair
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo

SHARED = ("bias_table", "clex")  # parameters that all layers share
LAST = ("norm", "head")  # those after the last layer; with a tied head the embedding too


class Stream(NamedTuple):
    """Stacks over the chunks of all tokens.

    Attributes:
      inputs: of layers, by slots.
      pairs: (out, lse) of attention as a Pair of stacks, or None.
    """

    inputs: Stack
    pairs: Pair | None


class _Back(NamedTuple):
    """The state of the way back.

    Attributes:
      stream: as the forward left it; slots between two that were kept are filled in on the way.
      dy: the gradient of the stream, at the layer that comes next.
      dshared: sums of the gradients of SHARED.
      blocks, done: the weights, and what `take` made, see Walk.backward.
    """

    stream: Stream
    dy: Stack
    dshared: dict
    blocks: dict
    done: object


@dataclasses.dataclass(frozen=True)
class Walk:
    """Forward through the model and back, in one step.

    Its methods are given `blocks`: for each kind of layer, stacks of its layers' weights.

    Attributes:
      params: as they were before the step; of their blocks only the shapes are used.
      specs: a tree of the PartitionSpecs that the weights state (model.linear.WeightInfo).
      batch: the chunks of the rows, [n, B, c] each.
      sources: see loss.by_source, where the losses of the rows' sources are told apart.
      layers: one for each kind.
    """

    graph: nnx.GraphDef
    config: Config
    params: dict
    specs: dict
    batch: dict
    sources: jax.Array | None
    layers: list[layerwise.Layer]

    @property
    def chunks(self) -> int:
        """How many chunks a row has."""
        return len(self.batch["tokens"])

    @property
    def every(self) -> int:
        """The distance of layers whose input is kept."""
        return self.config.memory.residual_every

    @property
    def slots(self) -> int:
        """Stream slots that hold layer inputs: ceil(layers / every)."""
        return -(-self.config.model.layers // self.every)

    def forward(self, blocks) -> Stream:
        """The stream, its slots filled up to the result."""
        stream = Stream(self._embedded(), self._no_pairs(blocks) if self.config.memory.keep_attention else None)
        length, whole, left = self._sections()
        if whole:
            section = lambda s, stream: self._section(blocks, s * length, length, stream)
            stream = jax.lax.fori_loop(0, whole, section, stream)
        return self._section(blocks, whole * length, left, stream)

    def _section(self, blocks, first, size: int, stream: Stream) -> Stream:
        """The stream after layers first to first + size - 1; results go to the slot that the next kept input has."""
        for j in range(size):
            slot = (first + j) // self.every
            source = slot if j % self.every == 0 else slot + 1
            stream = self._through(
                blocks, first, j, stream, source * self.chunks, (slot + 1) * self.chunks, keep=self.every == 1
            )
        return stream

    def loss(self, stream: Stream):
        """(losses, as training.autodiff has them; the gradient of the mean by the last layer's result, a Stack; by the
        trained params of LAST)."""
        params = self._params_of((*LAST, "embedding") if self.config.model.tied_head else LAST)
        gathered, total = self._gathered(params), self.batch["weights"].sum()
        params = trained.part(self.config, params)
        share = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1.0), 0.0)

        def chunk(i, carry):
            losses, dy, sums = carry
            batch = self._chunk(i)

            def weighted(part, x):
                model = self._model(paths.joined(gathered, part))
                nll = token_loss(model.to_head(x), model.head_weight(), batch["targets"], model.config.logit_soft_cap)
                return (nll * batch["weights"]).sum(), self._by_source(nll, batch)

            x = stream.inputs.read(self.slots * self.chunks + i)
            part, pull, apart = jax.vjp(weighted, paths.alike(gathered, params), x, has_aux=True)
            grads, dx = pull(share)
            losses = jax.tree.map(jnp.add, losses, {"loss": part, **apart})
            return losses, dy.write(i, dx), layerwise.added(sums, grads)

        none = {
            "loss": jnp.float32(0),
            **jax.tree.map(jnp.zeros_like, self._by_source(self.batch["weights"][0], self._chunk(0))),
        }
        like = jax.eval_shape(stream.inputs.read, 0)
        carry = none, host.zeros(self.chunks, like, self._on_host("dy")), layerwise.no_sums(params)
        losses, dy, sums = jax.lax.fori_loop(0, self.chunks, chunk, carry)
        return losses | {"loss": losses["loss"] * share}, dy, sums

    def _by_source(self, nll, batch) -> dict:
        """The sums of the sources in a chunk, where they are told apart."""
        if self.sources is None:
            return {}
        return {"by_source": by_source(nll, batch["weights"], self.sources, batch.get("rows"))}

    def backward(self, blocks, stream: Stream, dy: Stack, sums, done, take):
        """(blocks, done, gradients of the parameters but the blocks'), float32 and sharded as the parameters are.

        Gradients are those of trained parameters (optim.trains, model.lora).

        sums, dy: as from `loss`. take: (blocks, done, kind, i, gradients of the i-th layer of a kind) -> (blocks,
        done), called for every layer from the last to the first; it may change the weights of that one.
        """
        length, whole, left = self._sections()
        state = _Back(stream, dy, layerwise.no_sums(self._params_of(SHARED)), blocks, done)
        state = self._section_back(whole * length, left, state, take)
        if whole:
            back = lambda s, state: self._section_back((whole - 1 - s) * length, length, state, take)
            state = jax.lax.fori_loop(0, whole, back, state)
        grads = sums | trained.part(self.config, state.dshared)
        if embedding := trained.part(self.config, self._params_of(("embedding",))):
            before = sums.get("embedding") or layerwise.no_sums(embedding["embedding"])
            grads |= self._embedding_grads(state.dy, {"embedding": before})
        return state.blocks, state.done, grads

    def _section_back(self, first, size: int, state: _Back, take) -> _Back:
        """The state before layers first to first + size - 1, those between two kept inputs together."""
        for start in reversed(range(0, size, self.every)):
            group = range(start, min(start + self.every, size))
            stream = state.stream
            for j in group[:-1]:  # again, for the inputs of the layers after them
                source, target = self._source(first, j), self._source(first, j + 1)
                stream = self._through(state.blocks, first, j, stream, source, target, keep=True)
            state = state._replace(stream=stream)
            for j in reversed(group):
                kept = self._kept(stream, first, j) if self.every == 1 or j < group[-1] else None
                state = self._layer_back(first, j, state, kept, take)
        return state

    def _layer_back(self, first, j: int, state: _Back, kept: Section | None, take) -> _Back:
        """The state before layer first + j. kept: where its attention's pairs are, None where they are not."""
        layer, weights = self._layer(state.blocks, first, j)
        kind, i = self._place(first, j)
        part = lambda weights: trained.part_of_layer(self.config, weights, kind)
        sums = layerwise.no_sums(part(host.read(state.blocks[kind], i))), state.dshared
        layer = dataclasses.replace(layer, block=functools.partial(_completed, layer.block, weights))
        inputs, shared = state.stream.inputs, self._params_of(SHARED)
        dy, (grads, dshared) = layerwise.backward(
            layer, part(weights), shared, inputs, self._source(first, j), state.dy, sums, kept
        )
        blocks, done = take(state.blocks, state.done, kind, i, grads)
        return _Back(state.stream, dy, dshared, blocks, done)

    def _source(self, first, j: int):
        """The first part of the stream with the input of layer first + j, on the way back."""
        slot = (first + j) // self.every if j % self.every == 0 else self.slots + j % self.every
        return slot * self.chunks

    def _through(self, blocks, first, j: int, stream: Stream, source, target, keep: bool) -> Stream:
        """The stream with the results of layer first + j. source, target: first parts of its input and result."""
        shared, kept = self._params_of(SHARED), self._kept(stream, first, j) if keep else None
        inputs, kept = layerwise.forward(*self._layer(blocks, first, j), shared, stream.inputs, source, target, kept)
        return Stream(inputs, kept.stacks if kept else stream.pairs)

    def _kept(self, stream: Stream, first, j: int) -> Section | None:
        """The section of the stream with the pairs of layer first + j; None where none are kept."""
        slot = first + j if self.every == 1 else j % self.every
        return stream.pairs and Section(stream.pairs, slot * self.chunks)

    def _no_pairs(self, blocks) -> Pair:
        """Stacks for pairs of attention, zeros."""

        def like():
            layer, weights = self._layer(blocks, 0, 0)
            x = self._model(self._gathered(self._params_of(("embedding",)))).embedding(self._chunk(0)["tokens"])
            queries = layer.projected(weights, self._params_of(SHARED), x, 0).queries[0]
            return Pair(queries, queries[..., 0].astype(jnp.float32))

        slots = self.config.model.layers if self.every == 1 else self.every - 1
        return host.zeros(slots * self.chunks, jax.eval_shape(like), self._on_host("attention"))

    def _sections(self):
        """(layers of a section, whole sections, layers left over)."""
        length = max(len(self.layers), self.every)
        return length, *divmod(self.config.model.layers, length)

    def _place(self, first, j: int):
        """(kind, its number among those of the kind) of layer first + j, of the section that begins at `first`."""
        kinds = len(self.layers)
        return j % kinds, first // kinds + j // kinds

    def _layer(self, blocks, first, j: int):
        """(Layer, gathered weights) of layer first + j."""
        kind, i = self._place(first, j)
        specs, dtype = self.specs["blocks"][kind], self.config.model.dtype
        return self.layers[kind], meshes.gather_weights(host.read(blocks[kind], i), specs, dtype)

    def _embedded(self) -> Stack:
        """The stream's inputs with the embeddings in slot 0."""
        params = self._gathered(self._params_of(("embedding",)))
        embedded = lambda i: self._model(params).embedding(self._chunk(i)["tokens"])
        count = (self.slots + self.every) * self.chunks
        stream = host.zeros(count, jax.eval_shape(embedded, 0), self._on_host("residual"))
        return jax.lax.fori_loop(0, self.chunks, lambda i, stream: stream.write(i, embedded(i)), stream)

    def _embedding_grads(self, dy: Stack, sums):
        """`sums` with the gradient of what is trained of the embedding added, from that of the embeddings."""
        params = self._gathered(self._params_of(("embedding",)))

        def chunk(i, sums):
            tokens = self._chunk(i)["tokens"]
            embedded = lambda part: self._model(paths.joined(params, part)).embedding(tokens)
            _, pull = jax.vjp(embedded, trained.part(self.config, params))
            return layerwise.added(sums, pull(dy.read(i))[0])

        return jax.lax.fori_loop(0, self.chunks, chunk, sums)

    def _model(self, params: dict):
        """The module with other `params` of those names."""
        return functional.merged(self.graph, self.params | params)

    def _params_of(self, names) -> dict:
        """The parameters of these names that the model has."""
        return {name: self.params[name] for name in names if name in self.params}

    def _gathered(self, weights):
        specs = {name: self.specs[name] for name in weights}
        return meshes.gather_weights(weights, specs, self.config.model.dtype)

    def _chunk(self, i) -> dict:
        """Chunk i of the batch."""
        return layerwise.at(self.batch, i)

    def _on_host(self, name: str) -> bool:
        return name in self.config.memory.offload


def _completed(block, weights: dict, part: dict):
    """The block of a layer's weights, a part of them from `part`."""
    return block(paths.joined(weights, part))


def walk(graph, config: Config, rope: RopeConfig, params: dict, batch: dict, length: int | None = None) -> Walk:
    """The Walk of one batch (data.rows and positions.augment say what it holds). length: see training.train_step."""
    batch = dict(batch)
    stretch, sources = batch.pop("stretch", None), batch.pop("sources", None)
    length = length or batch["tokens"].shape[1]
    chunks = jax.tree.map(functools.partial(_in_chunks, size=config.memory.chunk_tokens), batch)
    info = TokenInfo(chunks["positions"], chunks["segments"])

    def layer(block, kind):
        def view(shared, positions):
            return functional.merged(graph, params | shared).views(rope, length, stretch)(kind, positions)

        seen, model = view({}, info.positions[0]), config.model
        scale, cap = model.attention_scale or None, model.attention_soft_cap
        specs = [AttentionSpec(mask, scale, seen.bias, cap, partial=True) for mask in seen.masks]
        specs = within_documents(specs)
        attention = ChunkAttention(plan_of_chunks(config), specs)
        return layerwise.Layer(block, view, attention, info, visits(specs, info), "kv" in config.memory.offload)

    layers = [layer(*each) for each in zip(functional.blocks(graph, params), config.model.kinds, strict=True)]
    specs = jax.tree.map(lambda info: info.spec, functional.weight_info(graph, params))
    return Walk(graph, config, params, specs, chunks, sources, layers)


def _in_chunks(x, size: int):
    """[B, T] -> [n, B, size]: chunk i is the i-th share of every shard of the rows."""
    chunks = x.shape[1] // size
    local = lambda x: x.reshape(len(x), chunks, -1).swapaxes(0, 1)
    return jax.shard_map(local, in_specs=meshes.TOKENS, out_specs=P(None, *meshes.TOKENS))(x)
