"""FLOPs of a training step in closed form: what the model asks for, and what is computed with what is done twice."""

import collections
import dataclasses

import jax
import numpy as np

from longctx.config import Config, LayerConfig
from longctx.memory import remat
from longctx.positions import view
from pallas_kernels import masks
from pallas_kernels.masks import TokenInfo

_BLOCKS = 1024  # of a row, on each side, that a mask's share of all pairs is counted in
_LAST = ("down", "expert_down")  # nothing in the backward asks for what these give


@dataclasses.dataclass(frozen=True)
class Work:
    """FLOPs of one step, on all devices. Attention is counted over the pairs that its mask leaves.

    Attributes:
      matmuls: of the weights' matmuls, 6 for each token and weight.
      recomputed: of those, done again.
      forward: of attention once, 4 for each pair and number of a query head.
      times: how often attention's forward is done.
    """

    matmuls: float
    recomputed: float
    forward: float
    times: float

    @property
    def model(self) -> float:
        """What the model asks for, whatever is done again: for MFU. Attention's backward is twice its forward."""
        return self.matmuls + 3 * self.forward

    @property
    def backward(self) -> float:
        """Of attention's backward, as kernels do it: 5 matmuls where the forward has 2."""
        return 2.5 * self.forward


def work(config: Config, params: dict, length: int, rows: int) -> Work:
    """That of a step of so many rows of so many tokens; params: shapes."""
    model, kinds, tokens = config.model, config.model.kinds, length * rows
    weights = _weights(config, params["blocks"])
    head = model.d_model * model.vocab_size
    pairs = sum(share(kind, length) * len(range(i, model.layers, len(kinds))) for i, kind in enumerate(kinds))
    forward = 4 * pairs * rows * length**2 * model.heads * model.head_dim
    again = 2 * tokens * (_again(config, weights) + head)  # the loss computes its logits again
    return Work(6 * tokens * (sum(weights.values()) + head), again, forward, _attends(config))


def share(kind: LayerConfig, length: int) -> float:
    """Of all pairs of a row of one document, those that a kind's mask leaves."""
    _, mask, _ = view.resolve(kind)
    ends = np.linspace(0, length, min(_BLOCKS, length) + 1).astype(np.int32)
    positions = np.stack([ends[:-1], ends[1:] - 1], 1).reshape(1, -1)
    ranges = masks.block_ranges(TokenInfo(positions, np.ones_like(positions)), 2)
    relations = np.asarray(masks.relation(mask, ranges, ranges))
    return float(np.mean(relations == masks.FULL) + np.mean(relations == masks.PARTIAL) / 2)


def _weights(config, blocks) -> collections.Counter:
    """How many weights of the layers each token meets in matmuls, by name."""
    found = collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(blocks):
        name = path[-1].key
        if name.startswith("expert_") and not name.endswith("bias"):
            found[name] += leaf.size * config.model.experts_per_token // config.model.experts
        elif name in ("wq", "wk", "wv", "wo", "gate", "up", "down", "router"):
            found[name] += leaf.size
    return found


def _again(config, weights) -> float:
    """Of the weights' forward matmuls, what the backward does again, in weights."""
    memory, whole = config.memory, sum(weights.values())
    needed = whole - sum(weights[name] for name in _LAST)
    if memory.backward == "streamed":  # keys once to be attended to, and for their norm once more
        again = weights["wk"] if config.model.qk_norm != "none" else 0
        return needed + again + (memory.residual_every - 1) / memory.residual_every * whole
    if config.model.remat in ("none", "matmuls"):
        return 0.0
    policy = remat.parse(config.model.remat)
    return needed * (1 - policy.keep - policy.offload)


def _attends(config) -> float:
    """How often a step runs attention's forward."""
    memory = config.memory
    if memory.backward != "streamed":
        return 1.0 if remat.parse(config.model.remat).keeps("attention_out") else 2.0
    if memory.residual_every == 1:
        return 1.0 if memory.keep_attention else 2.0
    return 2.0 if memory.keep_attention else 3.0 - 1 / memory.residual_every
