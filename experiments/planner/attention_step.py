"""How long a layer's attention takes over context shards, by what is known of a chip: nothing is run."""

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
    """Sizes of a layer's attention, and of the blocks of its kernel."""

    heads: int
    kv_heads: int
    head_dim: int
    block: int

    def computing(self, chip: Chip) -> tuple[float, float]:
        """Seconds of one pair of blocks, forward and backward."""
        work = self.block**2 * self.heads * self.head_dim / (chip.tflops * 1e12)
        return KERNEL_FORWARD * work / chip.forward, KERNEL_BACKWARD * work / chip.backward

    def moving(self, chip: Chip, shards: int) -> tuple[float, float]:
        """Seconds of one block of keys and values from another device, forward and, with their gradients, backward."""
        sent = 2 * self.block * self.kv_heads * self.head_dim * 2
        rate = chip.near if shards <= chip.per_host else chip.far
        return sent / rate, 2 * sent / rate


def ring(computed: np.ndarray, needed: np.ndarray, slots: int, compute: float, move: float) -> float:
    """Seconds of a lock-step ring; computed, needed: see balance.tiles. slots: blocks of a shard."""
    hops = balance.by_hop(computed).max(axis=1) * compute
    return float(np.maximum(hops[:-1], slots * move).sum() + hops[-1])


def by_need(computed: np.ndarray, needed: np.ndarray, slots: int, compute: float, move: float) -> float:
    """Seconds where shards fetch the blocks of keys that they need, and no others."""
    away = needed - np.diag(needed.diagonal())
    return float(np.maximum(away.sum(axis=0), away.sum(axis=1)).max() * move + computed.sum(axis=1).max() * compute)


EXCHANGES = {"ring": ring, "by need": by_need}


def seconds(exchange: str, tiles, slots: int, layer: Layer, chip: Chip) -> float:
    """Seconds of attention, forward and backward, of one layer. tiles: what balance.tiles gives."""
    computing, moving = layer.computing(chip), layer.moving(chip, len(tiles[0]))
    return sum(EXCHANGES[exchange](*tiles, slots, *way) for way in zip(computing, moving, strict=True))


def hidden_from(layer: Layer, chip: Chip, shards: int) -> list[float]:
    """Tokens of a shard from which on a ring's hop computes for as long as the next keys travel, forward and backward:
    of one document under a causal mask, laid out evenly, so that a hop is half of all pairs."""
    ways = zip(layer.computing(chip), layer.moving(chip, shards), strict=True)
    return [2 * layer.block * move / compute for compute, move in ways]


def assumptions(chip: Chip) -> list[str]:
    said = dataclasses.asdict(chip) | {"near": chip.near / 1e9, "far": chip.far / 1e9}
    return [text.format(**said) for text in ASSUMPTIONS]
