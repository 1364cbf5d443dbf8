"""Keys by need: every shard is sent just those blocks of keys that its queries see, in this batch and under this mask.

A ring moves all keys past every shard in lock step, whatever a batch needs. Here the mask, asked about blocks of the
positions and segments that travel with every batch, tells each shard who needs which of its blocks. So any mask, layout
and packing will do, layers with a window send less than those without, and documents that lie on one shard send nothing:
the exchange of MagiAttention (arXiv 2505.13211) and the aim of DistCA (arXiv 2510.18121), without a plan to ship. Even
work is the layout's business, and no lock step undoes it.

Shapes are static, so blocks travel in rounds of an all-to-all with room for so many blocks for each pair of shards and
row, and there are as many rounds as the pair with the most blocks takes. No batch overflows, and no more than two rounds
are in memory, each of about as many tokens as a shard holds. jax.lax.ragged_all_to_all would send no empty places; it
does not run on simulated devices.
"""
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx import meshes
from longctx.context_parallel.merge import cast, merge, neutral
from longctx.context_parallel.strategy import Strategy
from pallas_kernels import masks
from pallas_kernels.attention import tiles

LEAST_BLOCKS, WIDEST_BLOCK = 64, 512


class Cut(NamedTuple):
    """How the keys of a shard are cut into `shards` * `room` blocks.

    Attributes:
      shards: of the context. block: tokens of a block, a power of two. room: blocks of a pair and row in a round.
    """
    shards: int
    block: int
    room: int

    @property
    def tokens(self):
        """Of a row, that a round brings; and that the keys of a shard are padded to."""
        return self.shards * self.room * self.block


def cut_of(length: int, shards: int) -> Cut:
    """The Cut of a shard of so many tokens.

    Blocks are small, as a whole one travels for the sake of one key, but not too small: every pair of a block of queries
    and one of keys is looked at, and blocks narrower than a kernel's leave that with work for pairs that see nothing.
    """
    most = min(WIDEST_BLOCK, max(1, length // max(LEAST_BLOCKS, shards)))
    block = 1 << most.bit_length() - 1
    return Cut(shards, block, -(-length // (shards * block)))


def needed(mask: masks.Mask, queries: masks.Ranges, keys: masks.Ranges) -> jax.Array:
    """bool [C, B, blocks]: which blocks of keys [B, blocks] the blocks of queries [C, B, ...] of each shard may see."""
    q, k = (jax.tree.map(lambda x, new=new: jnp.expand_dims(x, new), r) for r, new in ((queries, -1), (keys, (0, 2))))
    return (~masks.nothing(mask, q, k)).any(2)


class Order(NamedTuple):
    """In which order this shard sends its blocks to each of the others, those that they need first."""
    blocks: jax.Array                           # int32 [C, B, blocks]
    count: jax.Array                            # int32 [C, B]: so many of them are needed

    def of_round(self, i, room):
        """(blocks, whether they are needed) in round i, both [C, B, room]."""
        blocks = jax.lax.dynamic_slice_in_dim(self.blocks, i * room, room, 2)
        return blocks, i * room + jax.lax.broadcasted_iota(jnp.int32, blocks.shape, 2) < self.count[..., None]


def in_order(needed: jax.Array) -> Order:
    return Order(jnp.argsort(~needed, axis=-1, stable=True).astype(jnp.int32), needed.sum(-1, dtype=jnp.int32))


@dataclasses.dataclass(frozen=True)
class Dispatch(Strategy):
    """Blocks of keys over `axis` to where they are seen, with `inside` for the queries of each shard.

    grads_dtype: in which dK and dV travel.
    """
    inside: Strategy
    axis: str | tuple[str, ...]
    grads_dtype: str = "float32"

    def forward(self, q, k, v, tokens, spec, table):
        dtype, spec = spec.result_dtype(q), dataclasses.replace(spec, partial=True)
        own, post = self._begin(k, v, tokens, spec)

        def attend(here):
            k, v, k_tokens = here
            return self.inside.forward(q, k, v, (tokens[0], k_tokens), spec, table)

        def step(i, carry):
            here, result = carry
            return post.fetch(own, i), merge(result, attend(here))
        here, result = jax.lax.fori_loop(0, post.rounds, step, (own, neutral(q)))
        return cast(merge(result, attend(here)), dtype)

    def backward(self, q, k, v, tokens, spec, rows, table):
        partial = dataclasses.replace(spec, partial=True)
        own, post = self._begin(k, v, tokens, spec)

        def pull(i, here, sums):
            """The sums with the share of the keys here, which are the own ones, and after those what round i - 1 brought.
            """
            stay, home = sums
            k, v, k_tokens = here
            dq, *grads, dtable = self.inside.backward(q, k, v, (tokens[0], k_tokens), partial, rows, table)
            add = lambda grads, home: jax.tree.map(jnp.add, home, grads)
            home = jax.lax.cond(i > 0, lambda *x: post.send_home(*x, i - 1, self.grads_dtype), add, grads, home)
            return jax.tree.map(jnp.add, stay, (dq, dtable)), home

        def step(i, carry):
            here, sums = carry
            return post.fetch(own, i), pull(i, here, sums)
        zeros = lambda x: jnp.zeros_like(x, partial.result_dtype(x))
        sums = (zeros(q), jax.tree.map(jnp.zeros_like, table)), [zeros(x) for x in own[:2]]
        here, sums = jax.lax.fori_loop(0, post.rounds, step, (own, sums))
        (dq, dtable), home = pull(post.rounds, here, sums)
        dk, dv = (x[:, :k.shape[1]] for x in home)
        return *spec.rounded((dq, dk, dv), (q, k, v)), dtable

    def _begin(self, k, v, tokens, spec):
        """The own (k, v, tokens), padded to whole rounds, and the _Post."""
        shards = jax.lax.axis_size(self.axis)
        cut, cut_q = (cut_of(t.positions.shape[1], shards) for t in tokens[::-1])
        k, v, *k_tokens = (tiles.pad(x, 1, cut.tokens) for x in (k, v, *tokens[1]))
        k_tokens = masks.Tokens(*k_tokens)
        of_q = masks.block_ranges(tiles.pad_tokens(tokens[0], cut_q.block), cut_q.block)
        of_q = jax.tree.map(lambda x: jax.lax.all_gather(x, self.axis), of_q)                   # C B blocks
        others = (jnp.arange(shards) != jax.lax.axis_index(self.axis))[:, None, None]
        order = in_order(needed(spec.mask, of_q, masks.block_ranges(k_tokens, cut.block)) & others)
        # of all rows of the batch: no device may be out of step with others
        most = jax.lax.pmax(order.count.max(), (*meshes.BATCH, *meshes.CONTEXT))
        return (k, v, k_tokens), _Post(self.axis, cut, order, -(-most // cut.room))


@dataclasses.dataclass(frozen=True)
class _Post:
    """The exchange of one call: its rounds, and what travels in each."""
    axis: str | tuple[str, ...]
    cut: Cut
    order: Order
    rounds: jax.Array

    def fetch(self, own, i):
        """(k, v, tokens) that this shard is sent in round i. Empty places are of segment 0."""
        blocks, full = self.order.of_round(i, self.cut.room)
        row = jnp.arange(blocks.shape[1])[None, :, None]
        k, v, tokens = jax.tree.map(lambda x: self._in_blocks(x)[row, blocks], own)     # C B room block ...
        tokens = tokens._replace(segments=jnp.where(full[..., None], tokens.segments, 0))
        join = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[4:])
        return jax.tree.map(lambda x: join(self._trade(x)), (k, v, tokens))

    def send_home(self, grads, home, i, dtype):
        """`home`, the sums over shards of the gradients of the own keys, with those of what was sent in round i."""
        blocks, _ = self.order.of_round(i, self.cut.room)
        row = jnp.arange(blocks.shape[1])[:, None]

        def add(total, from_one):                       # shard after shard: no two write to one block at a time
            blocks, grads = from_one
            return total.at[row, blocks].add(grads.astype(total.dtype), unique_indices=True), None

        def added(total, grads):
            parts = self._in_blocks(grads.astype(dtype))
            parts = jnp.moveaxis(parts.reshape(len(parts), self.cut.shards, -1, *parts.shape[2:]), 1, 0)
            return jax.lax.scan(add, self._in_blocks(total), (blocks, self._trade(parts)))[0].reshape(total.shape)
        return [added(total, grad) for total, grad in zip(home, grads, strict=True)]

    def _in_blocks(self, x):
        return x.reshape(len(x), -1, self.cut.block, *x.shape[2:])

    def _trade(self, x):
        """x [C, ...]: its part for each shard given for that shard's for this one."""
        return jax.lax.all_to_all(x, self.axis, 0, 0, tiled=True)
