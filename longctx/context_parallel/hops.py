"""How far round a ring keys have to travel: by mask and layout, known ahead, and by documents, known on the device.

Shard i meets the keys of shard i - d after d hops. Where no shard sees any key at distance d, and at none beyond it,
the hop is not made: a window over a contiguous layout needs ceil((w - 1) / n) hops for shards of n tokens.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from longctx import meshes
from longctx.context_parallel.collectives import shift
from pallas_kernels import masks
from pallas_kernels.attention.pair import Inputs

AHEAD, BACK = 1, -1  # directions in which keys travel
_PARTS = 8  # parts of a shard that are looked at on the device


def farthest(mask: masks.Mask, layout: str | None, length: int, shards: int, both_ways: bool) -> dict[int, int]:
    """{direction: hops} that cover every distance at which some shard may see a key; AHEAD is always there.

    One way as long as that is shortest, or the two ways in parallel with `both_ways`. length: tokens of one shard.
    """
    needed = distances(mask, layout, length, shards)
    ahead = [0, *needed]  # hops ahead, if the rest of `needed` comes from BACK
    back = [shards - d for d in needed] + [0]
    if both_ways:
        cost = lambda i: (max(ahead[i], back[i]), back[i])
    else:
        cost = lambda i: (ahead[i] + back[i], back[i])
    best = min(range(len(ahead)), key=cost)
    return {AHEAD: ahead[best], **({BACK: back[best]} if back[best] else {})}


@functools.cache
def distances(mask: masks.Mask, layout: str | None, length: int, shards: int, towards: int = AHEAD) -> tuple[int, ...]:
    """Hop distances 1, 2, ... at which some shard may see keys of the shard that many places before it.

    towards=BACK: of the shard that many places after it. length: tokens of one shard.
    """
    return tuple(d for d in range(1, shards) if may_see(mask, layout, length, shards, towards * d))


def documents_matter(layout: str | None, both_ways: bool) -> bool:
    """Whether the end of a document can spare hops: every shard of other layouts has a part of every document."""
    return layout == "contiguous" or (layout == "zigzag" and both_ways)


def may_see(mask: masks.Mask, layout: str | None, length: int, shards: int, distance: int) -> bool:
    """Whether any shard may see a key of the shard that many hops before it."""
    spans = _spans(layout, length, shards)  # [shards, pieces, (first, last)]
    q, k = spans[:, :, None], spans[(np.arange(shards) - distance) % shards][:, None]
    low, high = mask.reach()
    if masks.branched(mask):
        high = np.inf
    # positions may be further apart than places in the row (another block of the keys, spread-out positions): only what
    # needs them to be near can be ruled out
    return bool(np.any((q[..., 1] - k[..., 0] >= min(low, 0)) & (q[..., 0] - k[..., 1] <= high)))


def _spans(layout, length, shards) -> np.ndarray:
    """First and last row index of each piece of each shard; a layout without long pieces has one span of everything."""
    c = np.arange(shards)
    if layout == "contiguous":
        pieces, size = c[:, None], length
    elif layout == "zigzag":
        pieces, size = np.stack([c, 2 * shards - 1 - c], -1), length // 2
    else:
        return np.broadcast_to([0, length * shards - 1], (shards, 1, 2))
    return np.stack([pieces * size, pieces * size + size - 1], -1)


def farthest_seen(bounds: dict[int, int], mask: masks.Mask, x: Inputs, axis) -> dict[int, jax.Array]:
    """The `bounds`, lowered to what the positions and segments of this very batch need; equal on every device."""
    shards, n = jax.lax.axis_size(axis), x.q_info.positions.shape[1]
    parts = next(p for p in range(_PARTS, 0, -1) if n % p == 0)
    of_q, of_k = (masks.block_ranges(info, n // parts) for info in (x.q_info, x.k_info))
    of_k = jax.tree.map(lambda y: jax.lax.all_gather(y, axis), of_k)  # [shards, B, parts]
    seen = masks.relation(mask, jax.tree.map(lambda y: y[None], of_q), of_k) != masks.EMPTY
    by_distance = seen.any((1, 2, 3))[(jax.lax.axis_index(axis) - jnp.arange(shards)) % shards]
    needed = jax.lax.pmax(by_distance.astype(jnp.int32), (*meshes.BATCH, *meshes.CONTEXT))
    distance = jnp.arange(shards)
    hops = {
        AHEAD: jnp.where(distance <= bounds[AHEAD], distance, 0),
        BACK: jnp.where(distance > bounds[AHEAD], shards - distance, 0),
    }
    return {way: (hops[way] * needed).max() for way in bounds}


def travel(tree, axis, distance):
    """Every leaf `distance` hops on: in one leap, or hop by hop the shorter way where the distance is traced."""
    if isinstance(distance, int):
        return shift(tree, axis, distance)
    shards = jax.lax.axis_size(axis)
    on = distance % shards
    short = on <= shards // 2
    tree = jax.lax.fori_loop(0, jnp.where(short, on, 0), lambda _, x: shift(x, axis, 1), tree)
    return jax.lax.fori_loop(0, jnp.where(short, 0, shards - on), lambda _, x: shift(x, axis, -1), tree)
