"""How much of a model's attention falls on parts of what it reads."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from longctx import layouts, meshes
from longctx.config import Config, RopeConfig
from longctx.model import functional
from longctx.model.transformer import SequenceAttention
from longctx.positions.view import reaches
from pallas_kernels.masks import TokenInfo

Attended = Callable[[dict, dict[str, np.ndarray], np.ndarray, int], np.ndarray]


def reader(graph: nnx.GraphDef, config: Config, mesh, rope: RopeConfig) -> Attended:
    """A function (params, batch, parts, count) -> f64 [B, count]: the share of attention on each part of a row.

    parts: int [B, T], the part that each token is of, below `count`; -1 for none. The share is that of the tokens whose
    targets have weight, the mean over these, heads and layers. It compiles once per shape and count. graph: see
    model.functional.
    """
    whole = jax.sharding.NamedSharding(mesh, meshes.REPLICATED)
    shares = jax.jit(functools.partial(_shares, graph, rope), static_argnums=(2, 3), out_shardings=whole)
    row_unit, shards = mesh.shape["data"] * mesh.shape["fsdp"], config.mesh.context_shards
    column_unit = layouts.unit(config.attention.layout, shards)

    def read(params, batch, parts, count):
        rows, columns = batch["tokens"].shape
        pad = (0, -rows % row_unit), (0, -columns % column_unit)
        padded = {name: np.pad(x, pad) for name, x in (batch | {"parts": parts + 1}).items()}
        arrangement = layouts.arrange(config.attention.layout, padded["segments"], shards, reaches(config.model))
        with jax.set_mesh(mesh):
            found = shares(params, meshes.put_whole(arrangement.apply(padded), mesh), count, columns)
        return np.asarray(found, np.float64)[:rows]

    return read


def _shares(graph, rope, params, batch: dict, count: int, length: int):
    """f32 [B, count], see `reader`; the parts of the batch are numbered from 1 on, and 0 is none."""
    model = functional.merged(graph, params)
    info = TokenInfo(jnp.asarray(batch["positions"]), jnp.asarray(batch["segments"]))
    asked = (batch["weights"] != 0).astype(jnp.float32)
    kinds, view_of = model.config.kinds, model.views(rope, length)

    def attend(own, at, q, k, v, **how):
        out, _ = own.attend(at, q, k, v, **how)
        found, H = [], v.shape[-1]
        for first in range(1, count + 1, H):  # values that say which part a token is of: what is seen is its share
            marks = jax.nn.one_hot(batch["parts"] - first, H, dtype=v.dtype)  # BTH
            values = jnp.zeros_like(v) + marks[:, :, None]
            seen, _ = own.attend(at, q, k, values, **how)
            found.append(jnp.einsum("BTNH,BT->BH", seen.astype(jnp.float32), asked, out_sharding=meshes.REPLICATED))
        return out, jnp.concatenate(found, axis=-1)[:, :count] / model.config.heads

    views = {kind: view_of(kind, info.positions) for kind in kinds}
    layers = [SequenceAttention(views[kind], info, model.attention, model.memory.head_groups) for kind in kinds]
    _, kept = model.through(batch["tokens"], [functools.partial(attend, own) for own in layers])
    of_layers = jnp.concatenate(kept)  # of each layer [B, count]
    total = jnp.sum(asked, axis=1, keepdims=True)
    return of_layers.mean(axis=0) / jnp.maximum(jax.sharding.reshard(total, meshes.REPLICATED), 1)
