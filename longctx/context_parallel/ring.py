"""Ring attention (arXiv 2310.01889): K/V blocks travel round the context axis while every shard keeps its queries.

Forward: every hop is sent before the block that it overlaps is computed, which goes on from the float32 pair so far.
Backward: blocks leap to the farthest shard that needs them and come home hop by hop, the sum of their dK/dV with them;
a block's own shard adds its own share at home. Which hops are needed at all, and in which directions, is in hops.py.
Both ways at once (`both_ways`), the latency is ceil((C-1)/2) hops instead of C-1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx.context_parallel import hops
from longctx.context_parallel.collectives import shift
from longctx.context_parallel.cost import PERMUTE, Cost
from longctx.context_parallel.hops import AHEAD, BACK
from longctx.context_parallel.plan import BOTH, INNER, OUTER
from longctx.context_parallel.strategy import KeyBlock, Strategy
from pallas_kernels.attention.pair import Grads, cast, neutral
from pallas_kernels.masks import TokenInfo


class _Homeward(NamedTuple):
    """The state of the backward: what travels home, and what stays.

    Attributes:
      blocks: {direction: KeyBlock} that are here now.
      dkv: {direction: (dk, dv)} of the blocks that were here last, summed over the shards so far.
      stay: (dq, dbias) of the queries here.
    """

    blocks: dict
    dkv: dict
    stay: tuple


@dataclasses.dataclass(frozen=True)
class Ring(Strategy):
    """A ring over `axis`, with `inside` for each pair of shards.

    layout: how the sequence lies on the shards, None for unknown. documents: whether it is of packed documents, whose
    ends make hops unnecessary that the mask alone would need. kv_grads_dtype: in which dK and dV travel.
    """

    waits = "lockstep"

    inside: Strategy
    axis: str | tuple[str, ...]
    layout: str | None = None
    documents: bool = False
    both_ways: bool = False
    kv_grads_dtype: str = "float32"

    @classmethod
    def make(cls, kernel, plan):
        return cls(kernel, BOTH, plan.layout, plan.documents, False, plan.kv_grads_dtype)

    def forward(self, x, spec, initial=None):
        dtype, spec = spec.result_dtype(x.q), dataclasses.replace(spec, partial=True)
        distances = self._distances(x, spec)
        # blocks on their way, not attended yet; the own one, which both directions start with, counts as AHEAD's
        blocks, made = dict.fromkeys(distances, KeyBlock.of(x)), dict.fromkeys(distances, 0)
        pair = neutral(x.q) if initial is None else initial

        def attend(blocks, made, pair):
            return self.inside.forward(_joined(blocks, made).put(x), spec, pair)

        for moving, steps in _phases(distances):

            def hop(i, carry, moving=moving, start=made[moving[0]]):
                blocks, pair = carry
                present = {way: blocks[way] for way in moving}
                arriving = {way: shift(block, self.axis, way) for way, block in present.items()}
                return blocks | arriving, attend(present, dict.fromkeys(moving, start + i), pair)

            blocks, pair = jax.lax.fori_loop(0, steps, hop, (blocks, pair))
            made = made | {way: made[way] + steps for way in moving}
        return cast(attend(blocks, made, pair), dtype)

    def backward(self, x, spec, stats):
        partial = dataclasses.replace(spec, partial=True)
        distances, own = self._distances(x, spec), KeyBlock.of(x)

        def pull(blocks):
            """((dq, dbias), {direction: (dk, dv)} of the blocks)."""
            grads = self.inside.backward(_joined(blocks).put(x), partial, stats)
            by_way = zip(*(jnp.split(g, len(blocks), axis=1) for g in (grads.dk, grads.dv)), strict=True)
            return (grads.dq, grads.dbias), dict(zip(blocks, by_way, strict=True))

        def hop(state, moving, last=False):
            """Attends the blocks here, and sends them and the sums that came from further out one hop home.

            A direction that begins has no sum to send yet; on the last hop the next block would be the receiver's own.
            """
            present = {way: state.blocks[way] for way in moving}
            arriving = {} if last else {way: shift(block, self.axis, -way) for way, block in present.items()}
            arrived = {way: self._send_home(state.dkv[way], way) for way in moving if way in state.dkv}
            stay, dkv = pull(present)
            dkv |= {way: jax.tree.map(jnp.add, arrived[way], dkv[way]) for way in arrived}
            return _Homeward(state.blocks | arriving, state.dkv | dkv, jax.tree.map(jnp.add, state.stay, stay))

        blocks = {way: hops.travel(own, self.axis, way * distance) for way, distance in distances.items()}
        stay, at_home = pull({AHEAD: own})
        state = _come_home(hop, _Homeward(blocks, {}, stay), distances, at_home[AHEAD])
        (dq, dbias), (dk, dv) = state.stay, at_home[AHEAD]
        for way, dkv in state.dkv.items():
            dk, dv = jax.tree.map(jnp.add, (dk, dv), self._send_home(dkv, way))
        return spec.rounded(Grads(dq, dk, dv, dbias), x)

    def cost(self, call):
        """Keys as far as some query sees them; back from there, in one leap out, and home with their gradients."""
        shards = call.plan.size(self.axis)
        distances = hops.farthest(call.mask, self.layout, call.tokens, shards, self.both_ways)
        on_device = self.documents and hops.documents_matter(self.layout, self.both_ways) and distances[AHEAD]
        there, out = list(distances.values()), [min(distance, shards - distance) for distance in distances.values()]
        links = max(a + b for a, b in zip(there, out, strict=True))
        blocks, sums, steps = sum(there), sum(there), max(there) + 1
        if on_device:  # out hop by hop, and the first and the last hop home are as all others
            blocks, sums, steps, links = sum(there) + sum(out), sum(there) + len(there), links + 1, links + 1
        ways = len(distances) if self.both_ways else 1
        load = blocks * call.block + sums * call.block_grads
        hops_cost = Cost(
            forward=call.sent(PERMUTE, self.axis, sum(there) * call.block, max(there), max(there), ways),
            backward=call.sent(PERMUTE, self.axis, load, steps, links, ways),
        )
        return hops_cost + (sum(there) + 1) * self.inside.cost(call)  # which attends every block that comes

    def _send_home(self, dkv, way):
        """The sums of dK and dV that belong to the block one hop homeward, in the dtype in which they travel."""
        return jax.tree.map(lambda x: shift(x.astype(self.kv_grads_dtype), self.axis, -way).astype(x.dtype), dkv)

    def _distances(self, x, spec):
        """{direction: hops}, known now or, where documents may end sooner than the mask, on the device."""
        shards, n = jax.lax.axis_size(self.axis), x.q_info.positions.shape[1]
        distances = hops.farthest(spec.mask, self.layout, n, shards, self.both_ways)
        nearby = self.documents and hops.documents_matter(self.layout, self.both_ways)
        return hops.farthest_seen(distances, spec.mask, x, self.axis) if nearby and distances[AHEAD] else distances


@dataclasses.dataclass(frozen=True)
class BidirectionalRing(Ring):
    """A ring in both directions at once, which halves the latency."""

    @classmethod
    def make(cls, kernel, plan):
        return cls(kernel, BOTH, plan.layout, plan.documents, True, plan.kv_grads_dtype)


@dataclasses.dataclass(frozen=True)
class DoubleRing(Ring):
    """A ring over the outer context axis of rings over the inner one (LoongTrain, arXiv 2406.18485).

    Neither level is told how the sequence lies.
    """

    levels = 2

    @classmethod
    def make(cls, kernel, plan):
        inside = Ring(kernel, INNER, kv_grads_dtype=plan.kv_grads_dtype)
        return cls(inside, OUTER, kv_grads_dtype=plan.kv_grads_dtype)


def _phases(distances):
    """[(directions that move, hops)]: both together as long as both have to, then the farther one alone."""
    ahead, back = distances[AHEAD], distances.get(BACK, 0)
    known = isinstance(ahead, int) and isinstance(back, int)
    both = min(ahead, back) if known else jnp.minimum(ahead, back)
    phases = [((AHEAD, BACK), both), ((AHEAD,), ahead - both), ((BACK,), back - both)]
    return [
        (moving, steps) for moving, steps in phases if BACK in distances or moving == (AHEAD,) if not known or steps
    ]


def _come_home(hop, state: _Homeward, distances, like) -> _Homeward:
    """The phases backwards. Where hops are known, the first and the last of a direction are apart: they send less.

    like: (dk, dv) of one block.
    """
    phases = _phases(distances)[::-1]
    if not all(isinstance(distance, int) for distance in distances.values()):
        state = state._replace(dkv={way: jax.tree.map(jnp.zeros_like, like) for way in distances})
        for moving, steps in phases:
            state = jax.lax.fori_loop(0, steps, lambda _, state, moving=moving: hop(state, moving), state)
        return state
    for i, (moving, steps) in enumerate(phases):
        final = i == len(phases) - 1
        state = hop(state, moving, last=final and steps == 1)
        middle = steps - 2 if final else steps - 1
        if middle > 0:
            state = jax.lax.fori_loop(0, middle, lambda _, state, moving=moving: hop(state, moving), state)
        if final and steps > 1:
            state = hop(state, moving, last=True)
    return state


def _joined(blocks, made=None) -> KeyBlock:
    """One block out of one or two. A block that came BACK 0 hops is the own one again: of no tokens."""
    if len(blocks) == 1 and AHEAD in blocks:
        return blocks[AHEAD]
    if made is not None:
        k, v, info = blocks[BACK]
        none = TokenInfo(info.positions, jnp.where(made[BACK] > 0, info.segments, 0))
        blocks = blocks | {BACK: KeyBlock(k, v, none)}
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *blocks.values())
