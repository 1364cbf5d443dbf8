"""Ring attention (arXiv 2310.01889): K/V blocks travel round the context axis while every shard keeps its queries.

Forward: every hop is sent before the block that it overlaps is computed, which goes on from the float32 result so far.
Backward: blocks leap to the farthest shard that needs them and come home hop by hop, the sum of their dK/dV with them;
a block's own shard adds its own share at home. Which hops are needed at all, and in which directions, is in hops.py.
Both ways at once (`both_ways`), the latency is ceil((C-1)/2) hops instead of C-1.
"""

import dataclasses

import jax
import jax.numpy as jnp

from longctx.context_parallel import hops
from longctx.context_parallel.collectives import shift
from longctx.context_parallel.hops import AHEAD, BACK
from longctx.context_parallel.merge import cast, neutral
from longctx.context_parallel.strategy import Strategy
from pallas_kernels.masks import Tokens


@dataclasses.dataclass(frozen=True)
class Ring(Strategy):
    """A ring over `axis`, with `inside` for each pair of shards.

    layout: how the sequence lies on the shards, None for unknown. documents: whether it is of packed documents, whose
    ends make hops unnecessary that the mask alone would need. kv_grads_dtype: in which dK and dV travel.
    """

    inside: Strategy
    axis: str | tuple[str, ...]
    layout: str | None = None
    documents: bool = False
    both_ways: bool = False
    kv_grads_dtype: str = "float32"

    def forward(self, q, k, v, tokens, spec, table, before=None):
        dtype, spec = spec.result_dtype(q), dataclasses.replace(spec, partial=True)
        far = self._farthest(tokens, spec)
        # blocks on their way, not attended yet; the own one, which both ways start with, counts as AHEAD's
        blocks, at = dict.fromkeys(far, (k, v, tokens[1])), dict.fromkeys(far, 0)

        def attend(blocks, at, result):
            k, v, k_tokens = _joined(blocks, at)
            return self.inside.forward(q, k, v, (tokens[0], k_tokens), spec, table, result)

        for moving, steps in _phases(far):

            def hop(i, carry, moving=moving, start=at[moving[0]]):
                blocks, result = carry
                here = {way: blocks[way] for way in moving}
                arriving = {way: shift(block, self.axis, way) for way, block in here.items()}
                return blocks | arriving, attend(here, dict.fromkeys(moving, start + i), result)

            blocks, before = jax.lax.fori_loop(0, steps, hop, (blocks, neutral(q) if before is None else before))
            at = at | {way: at[way] + steps for way in moving}
        return cast(attend(blocks, at, before), dtype)

    def backward(self, q, k, v, tokens, spec, rows, table):
        partial = dataclasses.replace(spec, partial=True)
        far, own = self._farthest(tokens, spec), (k, v, tokens[1])

        def pull(blocks):
            """(dq, dtable), and {way: (dk, dv)} of its blocks."""
            k, v, k_tokens = _joined(blocks)
            dq, *grads, dtable = self.inside.backward(q, k, v, (tokens[0], k_tokens), partial, rows, table)
            by_way = zip(*(jnp.split(g, len(blocks), axis=1) for g in grads), strict=True)
            return (dq, dtable), dict(zip(blocks, by_way, strict=True))

        def hop(carry, moving, last=False):
            """Attends the blocks here, and sends them and the sums that came from further out one hop home.

            A way that begins has no sum to send yet; on the last hop the next block would be the receiver's own.
            """
            blocks, sums, stay = carry
            here = {way: blocks[way] for way in moving}
            arriving = {} if last else {way: shift(block, self.axis, -way) for way, block in here.items()}
            arrived = {way: self._send_home(sums[way], way) for way in moving if way in sums}
            stay_here, grads = pull(here)
            grads |= {way: jax.tree.map(jnp.add, arrived[way], grads[way]) for way in arrived}
            return blocks | arriving, sums | grads, jax.tree.map(jnp.add, stay, stay_here)

        blocks = {way: hops.travel(own, self.axis, way * distance) for way, distance in far.items()}
        stay, mine = pull({AHEAD: own})
        dk, dv = mine[AHEAD]
        _, sums, (dq, dtable) = _come_home(hop, blocks, far, stay, (dk, dv))
        for way, pair in sums.items():
            dk, dv = jax.tree.map(jnp.add, (dk, dv), self._send_home(pair, way))
        return *spec.rounded((dq, dk, dv), (q, k, v)), dtable

    def _send_home(self, pair, way):
        """The sums of dK and dV that belong to the block one hop homeward, in the dtype in which they travel."""
        return jax.tree.map(lambda x: shift(x.astype(self.kv_grads_dtype), self.axis, -way).astype(x.dtype), pair)

    def _farthest(self, tokens, spec):
        """{direction: hops}, known now or, where documents may end sooner than the mask, on the device."""
        shards, n = jax.lax.axis_size(self.axis), tokens[0].positions.shape[1]
        far = hops.farthest(spec.mask, self.layout, n, shards, self.both_ways)
        nearby = self.documents and hops.documents_matter(self.layout, self.both_ways)
        return hops.farthest_seen(far, spec, tokens, self.axis) if nearby and far[AHEAD] else far


def _phases(far):
    """[(directions that move, hops)]: both together as long as both have to, then the farther one alone."""
    ahead, back = far[AHEAD], far.get(BACK, 0)
    known = isinstance(ahead, int) and isinstance(back, int)
    both = min(ahead, back) if known else jnp.minimum(ahead, back)
    phases = [((AHEAD, BACK), both), ((AHEAD,), ahead - both), ((BACK,), back - both)]
    return [(moving, steps) for moving, steps in phases if BACK in far or moving == (AHEAD,) if not known or steps]


def _come_home(hop, blocks, far, stay, pair):
    """The phases backwards. Where hops are known, the first and the last of a way are apart: they send less."""
    phases = _phases(far)[::-1]
    known = all(isinstance(distance, int) for distance in far.values())
    sums = {} if known else {way: jax.tree.map(jnp.zeros_like, pair) for way in far}
    carry = blocks, sums, stay
    for i, (moving, steps) in enumerate(phases):
        if not known:
            carry = jax.lax.fori_loop(0, steps, lambda _, c, moving=moving: hop(c, moving), carry)
            continue
        final = i == len(phases) - 1
        carry = hop(carry, moving, last=final and steps == 1)
        middle = steps - 2 if final else steps - 1
        if middle > 0:
            carry = jax.lax.fori_loop(0, middle, lambda _, c, moving=moving: hop(c, moving), carry)
        if final and steps > 1:
            carry = hop(carry, moving, last=True)
    return carry


def _joined(blocks, at=None):
    """One block (k, v, tokens) out of one or two. A block that came BACK 0 hops is the own one again: of no tokens."""
    if len(blocks) == 1 and AHEAD in blocks:
        return blocks[AHEAD]
    if at is not None:
        k, v, tokens = blocks[BACK]
        blocks = blocks | {BACK: (k, v, Tokens(tokens.positions, jnp.where(at[BACK] > 0, tokens.segments, 0)))}
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *blocks.values())
