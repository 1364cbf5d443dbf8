"""FLOPs of a training step in closed form: those that the model needs, and those that recomputation adds."""

import collections
import dataclasses

import jax
import numpy as np

from longctx import trained
from longctx.config import Config, LayerConfig
from longctx.memory import remat
from longctx.model import functional, lora, paths
from longctx.positions import view
from pallas_kernels import masks
from pallas_kernels.masks import TokenInfo

_BLOCKS = 1024  # blocks of a row, on each side, in which a mask's density is counted


@dataclasses.dataclass(frozen=True)
class Work:
    """FLOPs of one step on all devices. Attention is counted over the pairs that its mask leaves.

    Attributes:
      matmuls: of matmuls with weights, 6 per token and weight; 4 where the run does not train it.
      recomputed: of matmuls with weights that are computed again.
      forward: of one forward of attention, 4 per pair and per number of a query head.
      times: how often attention's forward is run.
    """

    matmuls: float
    recomputed: float
    forward: float
    times: float

    @property
    def model(self) -> float:
        """FLOPs that the model needs, without recomputation, for MFU; attention's backward counts twice its forward."""
        return self.matmuls + 3 * self.forward

    @property
    def backward(self) -> float:
        """FLOPs of attention's backward as kernels compute it: 5 matmuls where the forward has 2."""
        return 2.5 * self.forward


def work(config: Config, params: dict, length: int, rows: int) -> Work:
    """The Work of a step with `rows` rows of `length` tokens; params: shapes, with their shardings."""
    model, kinds, tokens = config.model, config.model.kinds, length * rows
    weights, updated, last = _weights(config, params)
    head = model.d_model * model.vocab_size
    path = lora.HEAD if "head" in params else lora.TABLE
    updated += head * (trained.is_trained(config, path) or lora.is_target(model.lora, path))
    pairs = sum(density(kind, length) * len(range(i, model.layers, len(kinds))) for i, kind in enumerate(kinds))
    forward = 4 * pairs * rows * length**2 * model.heads * model.head_dim
    again = 2 * tokens * (_again(config, weights, last) + head)  # the loss computes its logits again
    matmuls = tokens * (4 * (sum(weights.values()) + head) + 2 * updated)
    return Work(matmuls, again, forward, _attends(config))


def density(kind: LayerConfig, length: int) -> float:
    """The fraction of all query-key pairs in a row of one document that a layer's mask and position method leave."""
    method, mask, _ = view.resolve(kind)
    ends = np.linspace(0, length, min(_BLOCKS, length) + 1).astype(np.int32)
    positions = np.stack([ends[:-1], ends[1:] - 1], 1).reshape(1, -1)
    ranges = masks.block_ranges(TokenInfo(positions, np.ones_like(positions)), 2)
    relations = [np.asarray(masks.relation(mask & part.mask, ranges, ranges)) for part in method.parts()]
    return sum(float(np.mean(part == masks.FULL) + np.mean(part == masks.PARTIAL) / 2) for part in relations)


def _weights(config, params: dict) -> tuple[collections.Counter, int, int]:
    """(how many numbers of the layers' weights each token meets in matmuls, by name; of those that are trained; of the
    last matmuls).

    The last matmuls of feed-forward layers are those that give hidden states: the backward does not ask for these.
    """
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        graph = functional.graph(config.model, config.attention, config.memory)
    met, updated, last = collections.Counter(), 0, 0
    infos = dict(paths.leaves(functional.weight_info(graph, params)))
    for path, leaf in paths.leaves(params):
        info, names = infos[path], path.split(".")
        if names[0] == "blocks" and ("fsdp" in info.spec or names[-1] in paths.ADAPTERS):  # not so of biases and norms
            active, parts = info.active
            count = leaf.size * active // parts
            met[names[-1]] += count
            updated += count * trained.is_trained(config, path)
            last += count if "mlp" in names and info.spec[-1] == "fsdp" else 0
    return met, updated, last


def _again(config, weights, last: int) -> float:
    """Numbers of weights whose forward matmuls the backward does again; last: see _weights."""
    memory, whole = config.memory, sum(weights.values())
    needed = whole - last
    if memory.backward == "streamed":  # keys once to be attended to, and for their norm once more
        again = weights["wk"] if config.model.qk_norm != "none" else 0
        return needed + again + (memory.residual_every - 1) / memory.residual_every * whole
    if config.model.remat in ("none", "matmuls"):
        return 0.0
    policy = remat.parse(config.model.remat)
    return needed * (1 - policy.keep - policy.offload)


def _attends(config) -> float:
    """The number of times that a step runs attention's forward in each layer, on average."""
    memory = config.memory
    if memory.backward != "streamed":
        return 1.0 if remat.parse(config.model.remat).keeps("attention_out") else 2.0
    if memory.residual_every == 1:
        return 1.0 if memory.keep_attention else 2.0
    return 2.0 if memory.keep_attention else 3.0 - 1 / memory.residual_every
