"""What one step of a config sends, in closed form: by attention, and for weights that are stored in shares."""

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
from longctx.train_step import BLOCKS

REDUCE = "all-reduce"


def attention(config: Config, stage: Stage) -> dict[str, tuple[Sent, ...]]:
    """{phase: what all layers send}, of a step by autodiff; phases as those of hlo.program.phase.

    Where pairs of tokens fall into parts, each sends for itself; a compiler may send once what they share.
    """
    model, mesh, plan = config.model, config.mesh, context_parallel.plan_of(config)
    groups, kinds, total = config.memory.head_groups, config.model.kinds, Cost()
    for i, kind in enumerate(kinds):
        method, mask, _ = view.resolve(kind)
        parts = method.parts()
        for part in parts:
            call = Call(
                plan,
                mask & part.mask,
                stage.batch_size // (mesh.data * mesh.fsdp),
                -(-stage.seq_len // mesh.context_shards),
                model.head_dim,
                model.dtype,
                len(parts) > 1,
            )
            total += len(range(i, model.layers, len(kinds))) * groups * context_parallel.cost(call)
    forward = merged(total.exchange + total.forward)
    again = {"nothing": (), "exchange": total.exchange, "all": forward}[_again(model.remat)]
    return {"forward": forward, "recomputed": again, "backward": total.backward}


def _again(policy: str) -> str:
    """What of attention the backward does again: with its results kept, it needs what was exchanged."""
    found = remat.parse(policy)
    if found.policy is None:
        return "nothing"
    return "exchange" if found.keeps("attention_out") else "all"


def weights(config: Config, params: dict, platform: str) -> dict[tuple[str, str], tuple[Sent, ...]]:
    """{(part, phase): what is sent}; part: "layers", or "rest" for embedding and head. params: shapes, on the mesh.

    Shares are gathered in the dtype of compute, once in the forward, and in the layers again for the backward unless
    model.remat keeps all; gradients are scattered, and summed over `data`. On simulated devices they are summed whole.
    """
    found, mesh = collections.defaultdict(list), config.mesh
    again = remat.parse(config.model.remat).policy is not None
    everyone = mesh.data * mesh.fsdp * mesh.context_shards
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        part, shares = "layers" if BLOCKS in path else "rest", _parts(leaf, mesh, meshes.SHARES)
        size, others = leaf.size / _parts(leaf, mesh, ("tensor",)), everyone / shares
        gathered = GATHER, (shares - 1) / shares * size
        summed = (
            [(REDUCE, 2 * (everyone - 1) / everyone * size)]
            if platform == "cpu"
            else [(SCATTER, gathered[1]), (REDUCE, 2 * (others - 1) / others * size / shares)]
        )
        found[part, "forward"] += [gathered]
        found[part, "recomputed"] += [gathered] if again and part == "layers" else []
        found[part, "backward"] += summed
    width, axes = WIDTHS[config.model.dtype], share_axes(config)
    sent = lambda kind, count: Sent(kind, axes, Load(count, count * width), 1, 0)
    return {name: merged(sent(*one) for one in each if one[1]) for name, each in found.items()}


def _parts(leaf, mesh, names) -> int:
    """Into how many parts axes of these names cut an array."""
    cut = [name for entry in leaf.sharding.spec if entry for name in (entry if isinstance(entry, tuple) else (entry,))]
    return math.prod(mesh.axes[name] for name in cut if name in names)


def share_axes(config: Config) -> tuple[str, ...]:
    """Axes of more than one device over which gradients of weights are summed."""
    return tuple(name for name in (*meshes.BATCH, *meshes.CONTEXT) if config.mesh.axes[name] > 1)
