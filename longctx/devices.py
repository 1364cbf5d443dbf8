"""Meshes in one line, for those who have no configuration of a run: `mesh`. What they are made of is in meshes.py."""

import os

import jax

from longctx import meshes
from longctx.config import MeshConfig
from longctx.errors import UserError


def mesh(
    *, data: int = 1, fsdp: int = 1, context_outer: int = 1, context: int = 1, tensor: int = 1
) -> jax.sharding.Mesh:
    """A mesh over the first devices of jax.devices(), for `jax.set_mesh`; its axes not named here have size 1.

        lc.simulate(8)                          # eight CPU devices where there is no accelerator; before jax is used
        with jax.set_mesh(lc.mesh(context=8)):
            out = lc.attention(q, k, v)

    Args:
      data: shards of the batch.
      fsdp: shards of the batch that also hold a part of every weight each.
      context_outer, context: shards of the sequence, between nodes and within one; most need `context` alone.
      tensor: shards of heads, of the feed-forward's hidden size and of the vocabulary.

    Raises:
      UserError: for a size that is no whole number from 1 on, or more devices than there are.
    """
    config = MeshConfig(data=data, fsdp=fsdp, context_outer=context_outer, context=context, tensor=tensor)
    sizes_are_whole = all(isinstance(size, int) for size in config.axes.values())  # if not, meshes.make says so
    if sizes_are_whole and config.devices > len(devices := jax.devices()):
        raise UserError(
            f"lc.mesh({config}) needs {config.devices} devices, but there are {len(devices)} ({devices[0].platform}). "
            f"Make it smaller, or call lc.simulate({config.devices}) before jax is used."
        )
    return meshes.make(config)


def simulate(count: int) -> None:
    """Make jax show `count` CPU devices in this process; call it before jax is used.

    Sets NPROC, the number of threads that XLA starts, where the environment does not: with fewer threads than devices
    the collectives between them can hang.

    Raises:
      UserError: for a count that is no whole number from 1 on, and where jax has started already.
    """
    os.environ.setdefault("NPROC", "32")
    try:
        meshes.simulate(count)
    except RuntimeError as error:
        raise UserError(
            f"lc.simulate({count}) comes too late: jax has started with {len(jax.devices())} devices. "
            "Call it first, before any array is made."
        ) from error
