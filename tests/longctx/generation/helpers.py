"""Tiny models with weights that are not trivial, and what they say with and without a cache."""

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding

from longctx import meshes
from longctx.config import AttentionConfig, MeshConfig, ModelConfig
from longctx.generation import cache as caching
from longctx.model import functional
from pallas_kernels.masks import TokenInfo

TINY = ModelConfig(
    vocab_size=32, layers=2, d_model=16, mlp_dim=24, heads=4, kv_heads=2, head_dim=8, dtype="float32", remat="none"
)
REFERENCE = AttentionConfig(kernel="reference")
ONE = MeshConfig()
LENGTH = 48  # of the uncached rows


@functools.cache
def setup(config: ModelConfig, mesh_config: MeshConfig = ONE):
    """(mesh, graph, params); no weight is 0, and no program is compiled to draw them."""
    mesh = meshes.make(mesh_config)
    rng = np.random.default_rng(0)

    def some(path, like):
        drawn = rng.standard_normal(like.shape)
        drawn = 1 + drawn / 8 if path[-1].key == "scale" else drawn / 4
        return jax.device_put(drawn.astype(like.dtype), NamedSharding(mesh, like.sharding.spec))

    with jax.set_mesh(mesh):
        like = jax.eval_shape(lambda: functional.init(config, REFERENCE, jax.random.key(0)))
        return mesh, functional.graph(config, REFERENCE), jax.tree.map_with_path(some, like)


def rows(tokens, inside, positions=None) -> dict:
    """A batch of one document for each row: numpy [B, T], its tokens where `inside`."""
    index = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape) if positions is None else positions
    return {
        "tokens": np.where(inside, tokens, 0).astype(np.int32),
        "segments": inside.astype(np.int32),
        "positions": np.where(inside, index, 0).astype(np.int32),
    }


@functools.cache
def _uncached(config, mesh_config, length):
    _, graph, _ = setup(config, mesh_config)
    return jax.jit(lambda params, batch: functional.logits(graph, params, batch, length=length))


def uncached(config, tokens, lengths, mesh_config=ONE, length=None):
    """Logits [B, T, V] of the model without a cache, on rows of that many tokens int32 [B, T]."""
    mesh, _, params = setup(config, mesh_config)
    batch = rows(tokens, np.arange(tokens.shape[1])[None] < np.asarray(lengths)[:, None])
    with jax.set_mesh(mesh):
        return np.asarray(_uncached(config, mesh_config, length)(params, meshes.put_whole(batch, mesh)))


@functools.cache
def _step(config, mesh_config, length):
    _, graph, _ = setup(config, mesh_config)

    def step(params, cache, batch):
        model = functional.merged(graph, params)
        info = TokenInfo(batch["positions"], batch["segments"])
        x, cache = caching.extend(model, batch["tokens"], info, cache, None, length)
        return model.logits(x), cache

    return jax.jit(step)


def cached(config, tokens, counts, width, mesh_config=ONE, length=LENGTH):
    """(logits, tokens read, cache) through a cache: row b is read counts[i, b] tokens at a time, at most `width`."""
    mesh, _, params = setup(config, mesh_config)
    result, done = np.zeros((*tokens.shape, config.vocab_size), np.float32), np.zeros(len(tokens), int)
    with jax.set_mesh(mesh):
        cache = jax.jit(caching.empty, static_argnums=(0, 1, 2))(config, len(tokens), tokens.shape[1])
        for count in counts:
            inside = np.arange(width)[None] < count[:, None]
            at = np.minimum(done[:, None] + np.arange(width), tokens.shape[1] - 1)
            batch = rows(np.take_along_axis(tokens, at, 1), inside, at)
            logits, cache = _step(config, mesh_config, length)(params, cache, meshes.put_whole(batch, mesh))
            row, column = np.nonzero(inside)
            result[row, at[row, column]] = np.asarray(logits)[row, column]
            done += count
    return result, done, cache
