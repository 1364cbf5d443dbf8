"""Forward through the layers of the model and back, with a chunk of every row at a time on its way through one layer.

The residual stream of all tokens is a stack: slot s holds the input of layer s * every, the last one the result of them
all, and behind it are `every` - 1 slots for what lies between two of these, computed again on the way back. Nothing
else is as long as a row but one layer's keys and values, with their gradients, and the gradient of the stream; and
with memory.keep_attention the results of attention: of all layers, or where every > 1 of those computed again.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from longctx import meshes
from longctx.config import Config, RopeConfig
from longctx.loss import token_loss
from longctx.memory import host
from longctx.memory.host import Section, Stack
from longctx.model import functional
from longctx.streaming import layer as one
from longctx.streaming.attention import ChunkAttention, plan_of_chunks, visits
from pallas_kernels import masks
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import Tokens

SHARED = ("bias_table", "clex")  # parameters that all layers share
LAST = ("norm", "head")  # those after the last layer; with a tied head the embedding too


class Stream(NamedTuple):
    """Stacks that hold of all tokens inputs of layers, and results of attention, (out, lse), or None."""

    inputs: Stack
    results: tuple[Stack, Stack] | None


@dataclasses.dataclass(frozen=True)
class Walk:
    """One step's ways through the model.

    params: as they were before it; of their blocks only the shapes are used. specs: a tree of the PartitionSpecs that
    the weights state (model.linear.WeightInfo).
    Blocks are given to its methods: for each kind of layer, stacks of its layers' weights.
    """

    graph: object
    config: Config
    params: dict
    specs: dict
    batch: dict  # [n, B, c] each: the chunks of the rows
    layers: list[one.Layer]

    @property
    def chunks(self) -> int:
        return len(self.batch["tokens"])

    @property
    def slots(self) -> int:
        """Of the stream that hold inputs of layers."""
        return -(-self.config.model.layers // self.config.memory.residual_every)

    def forward(self, blocks) -> Stream:
        """The stream, its slots filled up to the result."""
        every = self.config.memory.residual_every

        def section(first, stream, size):
            for j in range(size):
                slot = (first + j) // every
                source = slot if j % every == 0 else slot + 1
                stream = self._through(
                    blocks, first, j, stream, source * self.chunks, (slot + 1) * self.chunks, keep=every == 1
                )
            return stream

        length, whole, left = self._sections()
        stream = Stream(self._embedded(), self._results(blocks) if self.config.memory.keep_attention else None)
        if whole:
            stream = jax.lax.fori_loop(0, whole, lambda s, stream: section(s * length, stream, length), stream)
        return section(whole * length, stream, left)

    def loss(self, stream: Stream):
        """(mean loss in nats, its gradient by the last layer's result: a Stack, by the parameters of LAST)."""
        params = self._some((*LAST, "embedding") if self.config.model.tied_head else LAST)
        gathered, total = self._gathered(params), self.batch["weights"].sum()
        share = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1.0), 0.0)

        def chunk(i, carry):
            value, dy, sums = carry
            here = self._chunk(i)

            def weighted(params, x):
                model = self._model(params)
                nll = token_loss(model.to_head(x), model.head_weight(), here["targets"], model.config.logit_soft_cap)
                return (nll * here["weights"]).sum()

            part, pull = jax.vjp(weighted, gathered, stream.inputs.read(self.slots * self.chunks + i))
            grads, dx = pull(share)
            return value + part, dy.write(i, dx), one.added(sums, grads)

        like = jax.eval_shape(stream.inputs.read, 0)
        carry = jnp.float32(0), host.zeros(self.chunks, like, self._on_host("dy")), one.no_sums(params)
        value, dy, sums = jax.lax.fori_loop(0, self.chunks, chunk, carry)
        return value * share, dy, sums

    def backward(self, blocks, stream: Stream, dy: Stack, sums, done, take):
        """(blocks, done, gradients of all parameters but the blocks'), float32 and cut as the parameters are.

        sums, dy: as from `loss`. take: (blocks, done, kind, i, gradients of the i-th layer of a kind) -> (blocks,
        done), called for every layer from the last to the first; it may change the weights of that one.
        """
        every, shared = self.config.memory.residual_every, self._some(SHARED)
        length, whole, left = self._sections()

        def source(first, j):
            return ((first + j) // every if j % every == 0 else self.slots + j % every) * self.chunks

        def section(first, carry, size):
            stream, dy, dshared, blocks, done = carry
            for start in reversed(range(0, size, every)):
                mine = range(start, min(start + every, size))
                for j in mine[:-1]:
                    stream = self._through(blocks, first, j, stream, source(first, j), source(first, j + 1), keep=True)
                for j in reversed(mine):
                    layer, weights = self._layer(blocks, first, j)
                    kind, i = self._place(first, j)
                    none = one.no_sums(host.read(blocks[kind], i)), dshared
                    kept = self._kept(stream, first, j) if every == 1 or j < mine[-1] else None
                    dy, (grads, dshared) = one.backward(
                        layer, weights, shared, stream.inputs, source(first, j), dy, none, kept
                    )
                    blocks, done = take(blocks, done, kind, i, grads)
            return stream, dy, dshared, blocks, done

        carry = section(whole * length, (stream, dy, one.no_sums(shared), blocks, done), left)
        if whole:
            back = lambda s, carry: section((whole - 1 - s) * length, carry, length)
            carry = jax.lax.fori_loop(0, whole, back, carry)
        _, dy, dshared, blocks, done = carry
        embedding = sums.get("embedding") or one.no_sums(self.params["embedding"])
        return blocks, done, sums | dshared | {"embedding": self._embedding_grads(dy, embedding)}

    def _through(self, blocks, first, j: int, stream: Stream, source, target, keep: bool) -> Stream:
        """The stream with the results of layer first + j."""
        shared, kept = self._some(SHARED), self._kept(stream, first, j) if keep else None
        inputs, kept = one.forward(*self._layer(blocks, first, j), shared, stream.inputs, source, target, kept)
        return Stream(inputs, kept.stacks if kept else stream.results)

    def _kept(self, stream: Stream, first, j: int) -> Section | None:
        """Where the stream has the results of attention of layer first + j."""
        slot = first + j if self.config.memory.residual_every == 1 else j % self.config.memory.residual_every
        return stream.results and Section(stream.results, slot * self.chunks)

    def _results(self, blocks):
        """Stacks for results of attention."""

        def like():
            layer, weights = self._layer(blocks, 0, 0)
            x = self._model(self._gathered(self._some(("embedding",)))).embedding(self._chunk(0)["tokens"])
            queries = layer.turned(weights, self._some(SHARED), x, 0).queries[0]
            return queries, queries[..., 0].astype(jnp.float32)

        memory = self.config.memory
        slots = self.config.model.layers if memory.residual_every == 1 else memory.residual_every - 1
        return host.zeros(slots * self.chunks, jax.eval_shape(like), self._on_host("attention"))

    def _sections(self):
        """(layers of a section, which is whole patterns and whole slots; whole sections; layers left over)."""
        length = max(len(self.layers), self.config.memory.residual_every)
        return length, *divmod(self.config.model.layers, length)

    def _place(self, first, j: int):
        """(kind, its number among those of the kind) of layer first + j, of the section that begins at `first`."""
        kinds = len(self.layers)
        return j % kinds, first // kinds + j // kinds

    def _layer(self, blocks, first, j: int):
        kind, i = self._place(first, j)
        specs, dtype = self.specs["blocks"][kind], self.config.model.dtype
        return self.layers[kind], meshes.gather_weights(host.read(blocks[kind], i), specs, dtype)

    def _embedded(self) -> Stack:
        params = self._gathered(self._some(("embedding",)))
        embedded = lambda i: self._model(params).embedding(self._chunk(i)["tokens"])
        count = (self.slots + self.config.memory.residual_every) * self.chunks
        stream = host.zeros(count, jax.eval_shape(embedded, 0), self._on_host("residual"))
        return jax.lax.fori_loop(0, self.chunks, lambda i, stream: stream.write(i, embedded(i)), stream)

    def _embedding_grads(self, dy: Stack, sums):
        params = self._gathered(self._some(("embedding",)))

        def chunk(i, sums):
            tokens = self._chunk(i)["tokens"]
            _, pull = jax.vjp(lambda params: self._model(params).embedding(tokens), params)
            return one.added(sums, pull(dy.read(i))[0]["embedding"])

        return jax.lax.fori_loop(0, self.chunks, chunk, sums)

    def _model(self, params: dict):
        """The module with other `params` of those names."""
        return functional.merged(self.graph, self.params | params)

    def _some(self, names) -> dict:
        return {name: self.params[name] for name in names if name in self.params}

    def _gathered(self, weights):
        specs = {name: self.specs[name] for name in weights}
        return meshes.gather_weights(weights, specs, self.config.model.dtype)

    def _chunk(self, i) -> dict:
        return one.at(self.batch, i)

    def _on_host(self, name: str) -> bool:
        return name in self.config.memory.offload


def walk(graph, config: Config, rope: RopeConfig, params: dict, batch: dict) -> Walk:
    """The Walk of one batch (data.rows and positions.augment say what it holds)."""
    batch, stretch = dict(batch), batch.get("stretch")
    batch.pop("stretch", None)
    length = batch["tokens"].shape[1]
    chunks = jax.tree.map(functools.partial(_in_chunks, size=config.memory.chunk_tokens), batch)
    tokens = Tokens(chunks["positions"], chunks["segments"])

    def layer(block, kind):
        def view(shared, positions):
            return functional.merged(graph, params | shared).views(rope, length, stretch)(kind, positions)

        seen = view({}, tokens.positions[0])
        specs = tuple(
            AttentionSpec(
                mask & masks.Segments(),
                config.model.attention_scale or None,
                seen.bias,
                config.model.attention_soft_cap,
                partial=True,
            )
            for mask in seen.masks
        )
        return one.Layer(
            block,
            view,
            ChunkAttention(plan_of_chunks(config), specs),
            tokens,
            visits(specs, tokens),
            kv_on_host="kv" in config.memory.offload,
        )

    layers = [layer(*each) for each in zip(functional.blocks(graph, params), config.model.kinds, strict=True)]
    specs = jax.tree.map(lambda info: info.spec, functional.weight_info(graph, params))
    return Walk(graph, config, params, specs, chunks, layers)


def _in_chunks(x, size: int):
    """[B, T] -> [n, B, size]: chunk i is the i-th share of every shard of the rows."""
    chunks = x.shape[1] // size
    local = lambda x: x.reshape(len(x), chunks, -1).swapaxes(0, 1)
    return jax.shard_map(local, in_specs=meshes.TOKENS, out_specs=P(None, *meshes.TOKENS))(x)
