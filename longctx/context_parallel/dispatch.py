"""Keys by need: every shard is sent just those blocks of keys that its queries see, in this batch and under this mask.

A ring moves all keys past every shard in lock step, whatever a batch needs. Here the mask, asked about blocks of the
positions and segments that travel with every batch, tells each shard who needs which of its blocks. So any mask, layout
and packing will do, layers with a window send less than those without, and a document that lies on one shard sends
nothing: MagiAttention's exchange (of MAGI-1, arXiv 2505.13211) and the aim of DistCA (arXiv 2510.18121), without a plan
to ship. That work is even is the layout's business, and no lock step undoes it.

Blocks travel by a ragged all-to-all. One with the same room for every pair of shards would send nearly what a ring does
where, as with packed documents, few pairs have much to send. Shapes are static, so there are rounds, as many as the
busiest shard of the batch takes; in each it is sent about ROOM times as many tokens as it holds. No batch overflows.
What a shard computes in a round waits for the others' sending, not for their computing; but a device that still
computes sends later. So the own keys are dealt out over the rounds too, and where one round does, nobody waits.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx import meshes
from longctx.context_parallel.collectives import Slices, ragged_all_to_all
from longctx.context_parallel.merge import cast, neutral
from longctx.context_parallel.strategy import Strategy
from pallas_kernels import masks
from pallas_kernels.attention import blocks as tiles
from pallas_kernels.masks import Ranges, Tokens

LEAST_BLOCKS, WIDEST_BLOCK = 64, 512
ROOM = 4  # for keys of others, in a round: so many times those that a shard holds


def block_size(length: int, shards: int) -> int:
    """Tokens of a block of keys, of the `length` that each of the shards holds; a power of two.

    Small, as a whole block travels for the sake of one key and a round has room for one more of every shard; not too
    small, as every pair of a block of queries and one of keys is looked at.
    """
    most = min(WIDEST_BLOCK, max(1, length // max(LEAST_BLOCKS, shards)))
    return 1 << most.bit_length() - 1


def ranges(tokens: Tokens, block: int) -> Ranges:
    """[B, blocks, 2]: of the first document in each block, and of the others.

    Where one ends and another begins, positions of both together would tell nothing: that a window is near anything.
    """
    positions, segments = (x.reshape(len(x), -1, 1, block) for x in tokens)
    first = segments == jnp.where(segments > 0, segments, jnp.iinfo(jnp.int32).max).min(-1, keepdims=True)
    parts = jnp.concatenate([jnp.where(first, segments, 0), jnp.where(first, 0, segments)], 2)
    return jax.tree.map(
        lambda x: x[..., 0], masks.block_ranges(Tokens(jnp.broadcast_to(positions, parts.shape), parts), block)
    )


def needed(mask: masks.Mask, queries: Ranges, keys: Ranges) -> jax.Array:
    """bool [B, C, blocks]: which blocks of keys [B, blocks, 2] any of the blocks of queries [B, C, ..., 2] may see."""
    q = jax.tree.map(lambda x: x.reshape(*x.shape[:2], -1, 1, 1), queries)
    k = jax.tree.map(lambda x: x[:, None, None], keys)
    return (~masks.nothing(mask, q, k)).any((2, 4))


def rounds_needed(counts: jax.Array, blocks: int) -> jax.Array:
    """Of an exchange of counts[b, i, j] blocks of row b from shard i to shard j, about `blocks` for each in a round; 1
    at least."""
    return jnp.maximum(-(-jnp.maximum(counts.sum(1), counts.sum(2)).max() // blocks), 1)


class Round(NamedTuple):
    """What shards exchange in one round: int32 [B, C, C], of each row, from shard i to shard j.

    Attributes:
      first: so many of the blocks that i sends to j went in the rounds before. size: so many go in this one.
      sent_at, kept_at: the place of the first of them among those that i sends, and among those that j is sent.
    """

    first: jax.Array
    size: jax.Array
    sent_at: jax.Array
    kept_at: jax.Array


def round_of(counts: jax.Array, i, rounds) -> Round:
    """Round i of so many. Each takes an even share of every pair's blocks, and so of what a shard sends and is sent."""
    first = counts // rounds * i + jnp.minimum(counts % rounds, i)
    size = (counts + rounds - 1 - i) // rounds
    return Round(first, size, *(jnp.cumsum(size, axis) - size for axis in (2, 1)))


def in_order(need: jax.Array, rounds) -> jax.Array:
    """int32 like need, bool [..., blocks]: those that are needed, by rounds. Each takes every so-many-th of them, for
    blocks that come first are seen by more queries; then those that are not."""
    rank = need.cumsum(-1, dtype=jnp.int32) - 1
    place = rank % rounds * need.shape[-1] + rank // rounds
    return jnp.argsort(jnp.where(need, place, need.shape[-1] ** 2), axis=-1, stable=True).astype(jnp.int32)


def _room(shards: int) -> int:
    """For so many times the keys of a shard: no more than there are others."""
    return min(ROOM, shards - 1)


@dataclasses.dataclass(frozen=True)
class Dispatch(Strategy):
    """Blocks of keys over `axis` to where they are seen, with `inside` for the queries of each shard.

    kv_grads_dtype: in which dK and dV travel.
    """

    inside: Strategy
    axis: str | tuple[str, ...]
    kv_grads_dtype: str = "float32"

    def forward(self, q, k, v, tokens, spec, table, before=None):
        dtype, spec = spec.result_dtype(q), dataclasses.replace(spec, partial=True)
        exchange = self._exchange(k, v, tokens, spec)

        def attend(i, here, before):
            k, v, k_tokens = exchange.with_own(i, here)
            return self.inside.forward(q, k, v, (tokens[0], k_tokens), spec, table, before)

        def step(i, carry):
            here, before = carry
            return exchange.fetch(i + 1), attend(i, here, before)

        last, start = exchange.rounds - 1, neutral(q) if before is None else before
        here, before = jax.lax.fori_loop(0, last, step, (exchange.fetch(0), start))
        return cast(attend(last, here, before), dtype)

    def backward(self, q, k, v, tokens, spec, rows, table):
        partial = dataclasses.replace(spec, partial=True)
        exchange = self._exchange(k, v, tokens, spec)

        def pull(i, here, sums):
            """The sums with the share of the keys of round i."""
            k, v, k_tokens = exchange.with_own(i, here)
            dq, *grads, dtable = self.inside.backward(q, k, v, (tokens[0], k_tokens), partial, rows, table)
            return jax.tree.map(jnp.add, sums, (dq, exchange.home(grads, i, self.kv_grads_dtype), dtable))

        def step(i, carry):
            here, sums = carry
            return exchange.fetch(i + 1), pull(i, here, sums)

        sums = jax.tree.map(lambda x: jnp.zeros_like(x, partial.result_dtype(x)), (q, list(exchange.own[:2]), table))
        last = exchange.rounds - 1
        dq, home, dtable = pull(last, *jax.lax.fori_loop(0, last, step, (exchange.fetch(0), sums)))
        return *spec.rounded((dq, *(x[:, : k.shape[1]] for x in home)), (q, k, v)), dtable

    def _exchange(self, k, v, tokens, spec):
        shards = jax.lax.axis_size(self.axis)
        q_block, block = (block_size(t.positions.shape[1], shards) for t in tokens)
        own = jax.tree.map(lambda x: tiles.pad(x, 1, block), (k, v, tokens[1]))
        whole = lambda tree: jax.tree.map(lambda x: jax.lax.all_gather(x, self.axis, axis=1), tree)
        of_q = whole(ranges(tiles.pad_tokens(tokens[0], q_block), q_block))
        others = (jnp.arange(shards) != jax.lax.axis_index(self.axis))[None, :, None]
        need = needed(spec.mask, of_q, ranges(own[2], block)) & others  # B C blocks
        counts = whole(need.sum(-1, dtype=jnp.int32))
        # of all rows of the batch: no device may be out of step with others
        rounds = jax.lax.pmax(rounds_needed(counts, _room(shards) * need.shape[2]), (*meshes.BATCH, *meshes.CONTEXT))
        return _Exchange(self.axis, block, own, in_order(need, rounds), counts, rounds)


@dataclasses.dataclass(frozen=True)
class _Exchange:
    """The rounds of one call.

    own: (k, v, tokens) of this shard, of whole blocks. order: int32 [B, C, blocks], as `in_order`.
    counts: int32 [B, C, C], how many shard i sends to shard j.
    """

    axis: str | tuple[str, ...]
    block: int
    own: tuple
    order: jax.Array
    counts: jax.Array
    rounds: jax.Array

    @property
    def places(self):
        """For blocks of a row, in a round: an even share of a whole, and one more for each part that is rounded up."""
        _, shards, blocks = self.order.shape
        return _room(shards) * blocks + shards

    def with_own(self, i, here):
        """(k, v, tokens) of round i: the own ones, of which the tokens of other rounds are none, and what came."""
        k, v, (positions, segments) = self.own
        turn = jnp.arange(positions.shape[1]) // WIDEST_BLOCK % self.rounds
        own = k, v, Tokens(positions, jnp.where(turn == i, segments, 0))
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), own, here)

    def fetch(self, i):
        """(k, v, tokens) [B, places * block, ...] that this shard is sent in round i; left over places: segment 0."""
        send, _, row, blocks = self._round(i)

        def fetched(x):
            sent = self._in_blocks(x)[row, blocks]  # B places block ...
            here = ragged_all_to_all(sent.reshape(-1, *sent.shape[2:]), send, self.axis)
            return here.reshape(len(x), -1, *x.shape[2:])

        return jax.tree.map(fetched, self.own)

    def home(self, grads, i, dtype):
        """The gradients of the own keys, from those of `with_own` on all shards, which travel in `dtype`."""
        _, send, row, blocks = self._round(i)

        def summed(grad, x):
            own, theirs = jnp.split(grad, [x.shape[1]], axis=1)
            sent = theirs.astype(dtype).reshape(-1, self.block, *x.shape[2:])
            here = ragged_all_to_all(sent, send, self.axis).reshape(*blocks.shape, *sent.shape[1:]).astype(grad.dtype)
            return self._in_blocks(own).at[row, blocks].add(here).reshape(x.shape)

        return [summed(grad, x) for grad, x in zip(grads, self.own[:2], strict=True)]

    def _round(self, i):
        """The Slices of B * places blocks to send there, those back, and the (row, block) of the former ones."""
        all_, me = round_of(self.counts, i, self.rounds), jax.lax.axis_index(self.axis)
        out, into = (Round(*(x.take(me, axis) for x in all_)) for axis in (1, 2))  # B C
        row = jnp.arange(len(self.order))[:, None]
        slices = lambda begin, size, end, size_back: Slices(
            *(x.T.ravel() for x in (row * self.places + begin, size, row * self.places + end, size_back))
        )
        place = jnp.arange(self.places)

        def block(order, out):
            ends = out.sent_at + out.size
            to = jnp.searchsorted(ends, place, side="right", method="compare_all")  # to nobody, in places left over
            return order.at[to, (out.first - out.sent_at)[to] + place].get(mode="clip")

        return (
            slices(out.sent_at, out.size, out.kept_at, into.size),
            slices(into.kept_at, into.size, into.sent_at, out.size),
            row,
            jax.vmap(block)(self.order, out),
        )

    def _in_blocks(self, x):
        return x.reshape(len(x), -1, self.block, *x.shape[2:])
