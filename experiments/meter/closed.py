"""The bytes that one step of a config sends, in closed form: for attention, and for weights sharded over devices."""

import collections
import math

import jax

from longctx import meshes
from longctx.config import Config
from longctx.context_parallel import api as context_parallel
from longctx.context_parallel.cost import GATHER, SCATTER, WIDTHS, Call, Cost, Load, Sent, merged
from longctx.data.curriculum import Stage
from longctx.memory import remat
from longctx.positions import view
from longctx.training import BLOCKS

REDUCE = "all-reduce"


def attention(config: Config, stage: Stage) -> dict[str, tuple[Sent, ...]]:
    """{phase: the sends of all layers} in a step by autodiff; the phases are those of hlo.program.phase.

    Where a position method splits the pairs of tokens into parts, each part counts its own sends, though a compiler may
    send once what several parts need.
    """
    model, mesh, plan = config.model, config.mesh, context_parallel.plan_of(config)
    rows, tokens = stage.shape
    groups, kinds, total = config.memory.head_groups, config.model.kinds, Cost()
    for i, kind in enumerate(kinds):
        method, mask, _ = view.resolve(kind)
        parts = method.parts()
        for part in parts:
            call = Call(
                plan,
                mask & part.mask,
                rows // (mesh.data * mesh.fsdp),
                -(-tokens // mesh.context_shards),
                model.head_dim,
                model.dtype,
                len(parts) > 1,
            )
            total += len(range(i, model.layers, len(kinds))) * groups * context_parallel.cost(call)
    forward = merged(total.exchange + total.forward)
    return {"forward": forward, "recomputed": _recomputed(model.remat, total, forward), "backward": total.backward}


def _recomputed(policy: str, total: Cost, forward: tuple[Sent, ...]) -> tuple[Sent, ...]:
    """The sends that the backward repeats under a remat policy: even with attention's results kept, the exchange."""
    kept = remat.parse(policy)
    if kept.policy is None:
        return ()
    return total.exchange if kept.keeps("attention_out") else forward


def weights(config: Config, params: dict, platform: str) -> dict[tuple[str, str], tuple[Sent, ...]]:
    """{(part, phase): the sends for weights and their gradients}.

    Shards are gathered in the dtype of compute, once in the forward, and in the layers again for the backward unless
    model.remat keeps everything; gradients are scattered, and summed over `data`. Simulated devices sum them whole.

    Args:
      params: shapes, with shardings on the mesh.

    Returns:
      part: "layers", or "rest" for embedding and head; phase: "forward", "recomputed" or "backward".
    """
    elements, mesh = collections.defaultdict(list), config.mesh
    again = remat.parse(config.model.remat).policy is not None
    devices = mesh.data * mesh.fsdp * mesh.context_shards
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        part, shards = "layers" if BLOCKS in path else "rest", _shards(leaf, mesh, meshes.SHARES)
        size, replicas = leaf.size / _shards(leaf, mesh, ("tensor",)), devices / shards
        gathered = GATHER, (shards - 1) / shards * size
        summed = (
            [(REDUCE, 2 * (devices - 1) / devices * size)]
            if platform == "cpu"
            else [(SCATTER, gathered[1]), (REDUCE, 2 * (replicas - 1) / replicas * size / shards)]
        )
        elements[part, "forward"] += [gathered]
        elements[part, "recomputed"] += [gathered] if again and part == "layers" else []
        elements[part, "backward"] += summed
    width, axes = WIDTHS[config.model.dtype], weight_axes(config)
    sent = lambda kind, count: Sent(kind, axes, Load(count, count * width), 1, 0)
    return {name: merged(sent(*entry) for entry in entries if entry[1]) for name, entries in elements.items()}


def _shards(leaf, mesh, names) -> int:
    """The number of shards into which the mesh axes `names` split an array."""
    axes = [name for entry in leaf.sharding.spec if entry for name in (entry if isinstance(entry, tuple) else (entry,))]
    return math.prod(mesh.axes[name] for name in axes if name in names)


def weight_axes(config: Config) -> tuple[str, ...]:
    """The mesh axes of more than one device over which gradients of weights are summed."""
    return tuple(name for name in (*meshes.BATCH, *meshes.CONTEXT) if config.mesh.axes[name] > 1)
