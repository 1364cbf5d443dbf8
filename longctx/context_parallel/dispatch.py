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
from longctx.context_parallel import hops
from longctx.context_parallel.collectives import Slices, ragged_all_to_all
from longctx.context_parallel.cost import RAGGED, Cost
from longctx.context_parallel.plan import BOTH
from longctx.context_parallel.strategy import KeyBlock, Strategy
from pallas_kernels import masks
from pallas_kernels.attention.blocks import pad, pad_info
from pallas_kernels.attention.pair import Grads, Pair, cast, neutral
from pallas_kernels.masks import Ranges, TokenInfo

LEAST_BLOCKS, WIDEST_BLOCK = 64, 512
ROOM = 4  # keys of others that a round has room for, in multiples of those that a shard holds


def block_size(length: int, shards: int) -> int:
    """The tokens of a block of keys, where each of the shards holds `length`; a power of two.

    Small, as a whole block travels for the sake of one key and a round has room for one more of every shard; not too
    small, as every pair of a block of queries and one of keys is looked at.
    """
    most = min(WIDEST_BLOCK, max(1, length // max(LEAST_BLOCKS, shards)))
    return 1 << most.bit_length() - 1


def ranges(info: TokenInfo, block: int) -> Ranges:
    """Ranges [B, blocks, 2] of the first document in each block, and of the others.

    Where one document ends and another begins, the positions of both together would tell nothing: a window would be
    near anything.
    """
    positions, segments = (x.reshape(len(x), -1, 1, block) for x in info)
    first = segments == jnp.where(segments > 0, segments, jnp.iinfo(jnp.int32).max).min(-1, keepdims=True)
    parts = jnp.concatenate([jnp.where(first, segments, 0), jnp.where(first, 0, segments)], 2)
    return jax.tree.map(
        lambda x: x[..., 0], masks.block_ranges(TokenInfo(jnp.broadcast_to(positions, parts.shape), parts), block)
    )


def needed(mask: masks.Mask, queries: Ranges, keys: Ranges) -> jax.Array:
    """Which blocks of keys [B, blocks, 2] any of the blocks of queries [B, C, ..., 2] may see: bool [B, C, blocks]."""
    q = jax.tree.map(lambda x: x.reshape(*x.shape[:2], -1, 1, 1), queries)
    k = jax.tree.map(lambda x: x[:, None, None], keys)
    return (~masks.nothing(mask, q, k)).any((2, 4))


def rounds_needed(counts: jax.Array, blocks: int) -> jax.Array:
    """The number of rounds, at least 1, that exchange counts[b, i, j] blocks of row b from shard i to shard j.

    blocks: about how many a shard is sent in a round.
    """
    return jnp.maximum(-(-jnp.maximum(counts.sum(1), counts.sum(2)).max() // blocks), 1)


class Round(NamedTuple):
    """The blocks that shards exchange in one round: int32 [B, C, C], of each row, from shard i to shard j.

    Attributes:
      first: how many of the blocks that i sends to j went in the rounds before.
      size: how many go in this one.
      sent_at, kept_at: the place of the first of them among those that i sends, and among those that j is sent.
    """

    first: jax.Array
    size: jax.Array
    sent_at: jax.Array
    kept_at: jax.Array


def round_of(counts: jax.Array, i, rounds) -> Round:
    """Round i. Each takes an even share of every pair's blocks, and so of the blocks that a shard sends and is sent."""
    first = counts // rounds * i + jnp.minimum(counts % rounds, i)
    size = (counts + rounds - 1 - i) // rounds
    return Round(first, size, *(jnp.cumsum(size, axis) - size for axis in (2, 1)))


def in_order(need: jax.Array, rounds) -> jax.Array:
    """The numbers of blocks in the order of rounds, then those not needed: int32 like `need`, bool [..., blocks].

    Of r rounds each takes every r-th of the needed blocks, for blocks that come first are seen by more queries.
    """
    rank = need.cumsum(-1, dtype=jnp.int32) - 1
    place = rank % rounds * need.shape[-1] + rank // rounds
    return jnp.argsort(jnp.where(need, place, need.shape[-1] ** 2), axis=-1, stable=True).astype(jnp.int32)


def _room(shards: int) -> int:
    """Room for keys of others in a round, in multiples of a shard's: no more than there are others."""
    return min(ROOM, shards - 1)


@dataclasses.dataclass(frozen=True)
class Dispatch(Strategy):
    """Blocks of keys over `axis` to where they are seen, with `inside` for the queries of each shard.

    kv_grads_dtype: in which dK and dV travel.
    """

    waits = "tiles"

    inside: Strategy
    axis: str | tuple[str, ...]
    kv_grads_dtype: str = "float32"

    @classmethod
    def make(cls, kernel, plan):
        return cls(kernel, BOTH, plan.kv_grads_dtype)

    def forward(self, x, spec, initial=None):
        dtype, spec = spec.result_dtype(x.q), dataclasses.replace(spec, partial=True)
        exchange = self._exchange(x, spec)

        def attend(i, arrived, pair) -> Pair:
            return self.inside.forward(exchange.with_own(i, arrived).put(x), spec, pair)

        def step(i, carry):
            arrived, pair = carry
            return exchange.fetch(i + 1), attend(i, arrived, pair)

        last, start = exchange.rounds - 1, neutral(x.q) if initial is None else initial
        arrived, pair = jax.lax.fori_loop(0, last, step, (exchange.fetch(0), start))
        return cast(attend(last, arrived, pair), dtype)

    def backward(self, x, spec, stats):
        partial = dataclasses.replace(spec, partial=True)
        exchange = self._exchange(x, spec)

        def pull(i, arrived, sums):
            """The sums (dq, [dk, dv], dbias) with the share of the keys of round i."""
            grads = self.inside.backward(exchange.with_own(i, arrived).put(x), partial, stats)
            home = exchange.home((grads.dk, grads.dv), i, self.kv_grads_dtype)
            return jax.tree.map(jnp.add, sums, (grads.dq, home, grads.dbias))

        def step(i, carry):
            arrived, sums = carry
            return exchange.fetch(i + 1), pull(i, arrived, sums)

        arrays = x.q, [exchange.own.k, exchange.own.v], x.bias_params
        sums = jax.tree.map(lambda y: jnp.zeros_like(y, partial.result_dtype(y)), arrays)
        last = exchange.rounds - 1
        dq, home, dbias = pull(last, *jax.lax.fori_loop(0, last, step, (exchange.fetch(0), sums)))
        dk, dv = (g[:, : x.k.shape[1]] for g in home)
        return spec.rounded(Grads(dq, dk, dv, dbias), x)

    def cost(self, call):
        """All blocks of every shard that some query may see: the most that a batch needs, ROOM shards in a round."""
        seen = len(hops.distances(call.mask, call.plan.layout, call.tokens, call.plan.size(self.axis)))
        rounds = -(-seen // ROOM)
        return Cost(
            forward=call.sent(RAGGED, self.axis, seen * call.block, rounds),
            backward=call.sent(RAGGED, self.axis, seen * (call.block + call.block_grads), rounds + 1),
        )

    def _exchange(self, x, spec):
        """The rounds of this call: who needs which blocks of keys."""
        shards = jax.lax.axis_size(self.axis)
        q_block, block = (block_size(info.positions.shape[1], shards) for info in (x.q_info, x.k_info))
        own = jax.tree.map(lambda y: pad(y, 1, block), KeyBlock.of(x))
        whole = lambda tree: jax.tree.map(lambda y: jax.lax.all_gather(y, self.axis, axis=1), tree)
        of_q = whole(ranges(pad_info(x.q_info, q_block), q_block))
        others = (jnp.arange(shards) != jax.lax.axis_index(self.axis))[None, :, None]
        need = needed(spec.mask, of_q, ranges(own.info, block)) & others  # B C blocks
        counts = whole(need.sum(-1, dtype=jnp.int32))
        # of all rows of the batch: no device may be out of step with others
        rounds = jax.lax.pmax(rounds_needed(counts, _room(shards) * need.shape[2]), (*meshes.BATCH, *meshes.CONTEXT))
        return _Exchange(self.axis, block, own, in_order(need, rounds), counts, rounds)


@dataclasses.dataclass(frozen=True)
class _Exchange:
    """The rounds of one call.

    Attributes:
      own: the keys of this shard, padded to whole blocks.
      order: int32 [B, C, blocks], blocks in the order in which they go to each shard, see in_order.
      counts: int32 [B, C, C], how many shard i sends to shard j.
    """

    axis: str | tuple[str, ...]
    block: int
    own: KeyBlock
    order: jax.Array
    counts: jax.Array
    rounds: jax.Array

    @property
    def places(self):
        """Places for blocks of a row in a round: an even share of all, and one for each part that is rounded up."""
        _, shards, blocks = self.order.shape
        return _room(shards) * blocks + shards

    def with_own(self, i, arrived: KeyBlock) -> KeyBlock:
        """The keys of round i: those that arrived, and the own ones, of which the tokens of other rounds are none."""
        k, v, (positions, segments) = self.own
        turn = jnp.arange(positions.shape[1]) // WIDEST_BLOCK % self.rounds
        own = KeyBlock(k, v, TokenInfo(positions, jnp.where(turn == i, segments, 0)))
        return jax.tree.map(lambda *y: jnp.concatenate(y, axis=1), own, arrived)

    def fetch(self, i) -> KeyBlock:
        """The keys [B, places * block, ...] that this shard is sent in round i; left over places: segment 0."""
        send, _, row, blocks = self._round(i)

        def fetched(x):
            sent = self._in_blocks(x)[row, blocks]  # B places block ...
            arrived = ragged_all_to_all(sent.reshape(-1, *sent.shape[2:]), send, self.axis)
            return arrived.reshape(len(x), -1, *x.shape[2:])

        return jax.tree.map(fetched, self.own)

    def home(self, grads, i, dtype):
        """The gradients of the own keys, from those of `with_own` on all shards, which travel in `dtype`."""
        _, send, row, blocks = self._round(i)

        def summed(grad, x):
            own, others = jnp.split(grad, [x.shape[1]], axis=1)
            sent = others.astype(dtype).reshape(-1, self.block, *x.shape[2:])
            arrived = ragged_all_to_all(sent, send, self.axis).reshape(*blocks.shape, *sent.shape[1:])
            return self._in_blocks(own).at[row, blocks].add(arrived.astype(grad.dtype)).reshape(x.shape)

        return [summed(grad, x) for grad, x in zip(grads, self.own[:2], strict=True)]

    def _round(self, i):
        """(Slices of B * places blocks to send, Slices of the way back, rows, blocks) of round i."""
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
        """[B, S, ...] -> [B, blocks, block, ...]"""
        return x.reshape(len(x), -1, self.block, *x.shape[2:])
