"""Predicted time of one layer's attention over context shards, by the rates of a chip. Nothing is run."""

import dataclasses

import numpy as np

from experiments.hardware.targets import Chip
from longctx import balance

KERNEL_FORWARD, KERNEL_BACKWARD = 4, 10  # FLOPs of a pair of tokens, by head dim
ASSUMPTIONS = (
    "attention's forward and backward compute whole pairs of blocks, masked or not, at {forward:.0%} and "
    "{backward:.0%} of {tflops:.0f} TFLOP/s",
    "bytes leave and reach a device at {near:.0f} GB/s each way among the {per_host} devices of a node, {far:.0f} GB/s "
    "with more shards than those, without latencies; K and V travel in bfloat16, in the backward with dK and dV",
    "a ring waits at each hop for the busiest shard, and sends the next keys while it computes",
    "by need, keys come before anything is computed on them; all wait for the busiest shard once",
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """Sizes of a layer's attention and of its kernel's blocks."""

    heads: int
    kv_heads: int
    head_dim: int
    block: int

    def computing(self, chip: Chip) -> tuple[float, float]:
        """Seconds to compute one pair of blocks, (forward, backward)."""
        work = self.block**2 * self.heads * self.head_dim / (chip.tflops * 1e12)
        return KERNEL_FORWARD * work / chip.forward, KERNEL_BACKWARD * work / chip.backward

    def moving(self, chip: Chip, shards: int) -> tuple[float, float]:
        """Seconds to move one block of keys and values between devices, (forward, backward with gradients)."""
        sent = 2 * self.block * self.kv_heads * self.head_dim * 2
        rate = chip.near if shards <= chip.per_host else chip.far
        return sent / rate, 2 * sent / rate


def ring(computed: np.ndarray, needed: np.ndarray, slots: int, compute: float, move: float) -> float:
    """Seconds of attention by a lock-step ring.

    Args:
      computed, needed: see balance.tiles.
      slots: blocks of a shard.
      compute, move: seconds per pair of blocks, and per block of keys and values.
    """
    hops = balance.by_hop(computed).max(axis=1) * compute
    return float(np.maximum(hops[:-1], slots * move).sum() + hops[-1])


def by_need(computed: np.ndarray, needed: np.ndarray, slots: int, compute: float, move: float) -> float:
    """Seconds of attention by shards that fetch exactly the blocks of keys that they need. Arguments: see `ring`."""
    remote = needed - np.diag(needed.diagonal())
    return float(np.maximum(remote.sum(axis=0), remote.sum(axis=1)).max() * move + computed.sum(axis=1).max() * compute)


EXCHANGES = {"ring": ring, "by need": by_need}


def seconds(exchange: str, tiles, slots: int, layer: Layer, chip: Chip) -> float:
    """Seconds of one layer's attention, forward and backward. tiles: the result of balance.tiles."""
    passes = zip(layer.computing(chip), layer.moving(chip, len(tiles[0])), strict=True)
    return sum(EXCHANGES[exchange](*tiles, slots, compute, move) for compute, move in passes)


def hidden_from(layer: Layer, chip: Chip, shards: int) -> list[float]:
    """Tokens per shard from which on compute hides a ring's hops, [forward, backward].

    A hop then computes for as long as the next keys travel. For one document under a causal mask in an even layout,
    where a hop computes half of all pairs.
    """
    passes = zip(layer.computing(chip), layer.moving(chip, shards), strict=True)
    return [2 * layer.block * move / compute for compute, move in passes]


def assumptions(chip: Chip) -> list[str]:
    """The assumptions behind a prediction, with the chip's rates, for people to read."""
    rates = dataclasses.asdict(chip) | {"near": chip.near / 1e9, "far": chip.far / 1e9}
    return [text.format(**rates) for text in ASSUMPTIONS]
