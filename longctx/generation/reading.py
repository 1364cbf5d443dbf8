"""Prompts read into a cache, chunk by chunk."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from longctx import meshes
from longctx.config import ModelConfig
from longctx.generation import cache as caching
from longctx.generation import decode
from longctx.ragged import common_prefix

SHORT = 16, 128  # tokens: prompts that are no longer are read in one chunk of so many, if the usual one is longer

empty = jax.jit(caching.empty, static_argnums=(0, 1, 2))
repeated = jax.jit(caching.repeated, static_argnums=1)


def begin(static: tuple, params, config: ModelConfig, prompts: list[np.ndarray], size: int, chunk: int):
    """(cache, last) after the prompts, as `read` gives them, from an empty cache of `size` slots.

    What all of more prompts than the mesh needs begin with is read once, where it is a chunk at least and RoPE does not
    scale by each row's own length.
    """
    sizes = jax.sharding.get_mesh().shape
    rows, shared = sizes["data"] * sizes["fsdp"], common(prompts)
    if len(prompts) == rows or shared < chunk or isinstance(static[2], tuple):
        return read(static, params, config, empty(config, len(prompts), size), prompts, chunk)
    first = [prompts[0][:shared]] * rows
    cache, _ = read(static, params, config, empty(config, rows, size), first, chunk)
    rests = [prompt[shared:] for prompt in prompts]
    return read(static, params, config, repeated(cache, len(prompts) // rows), rests, chunk, shared)


def common(prompts: list[np.ndarray]) -> int:
    """The number of tokens that all prompts begin with, and after which each goes on."""
    shared = min(common_prefix(prompt, prompts[0]) for prompt in prompts)
    return min(shared, min(map(len, prompts)) - 1)


def read(static: tuple, params, config: ModelConfig, cache, prompts: list[np.ndarray], chunk: int, first: int = 0):
    """(cache, last) of decode.read after the last chunk of the prompts.

    static: the static arguments of decode.read. first: the position of each prompt's first token; the cache holds those
    before it.
    """
    last = jnp.zeros((len(prompts), config.d_model), config.dtype, out_sharding=meshes.ROWS)
    for batch in chunks(prompts, width(max(map(len, prompts)), chunk), first):
        cache, last = decode.read(*static, params, cache, last, meshes.put_whole(batch, jax.sharding.get_mesh()))
    return cache, last


def width(count: int, chunk: int) -> int:
    """The tokens that are read at a time of `count`: `chunk`, or one of SHORT; a multiple of the context shards."""
    return round_up(next((width for width in SHORT if count <= width < chunk), chunk), meshes.context_shards())


def round_up(count: int, unit: int) -> int:
    """The smallest multiple of `unit` that is at least `count`."""
    return -(-count // unit) * unit


def chunks(prompts: list[np.ndarray], width: int, first: int) -> Iterator[dict]:
    """Batches [B, width] for decode.read, until the longest prompt ends."""
    lengths = np.array([len(prompt) for prompt in prompts])[:, None]
    for start in range(0, lengths.max(), width):
        index = start + np.arange(width)[None]
        inside = index < lengths
        tokens = np.zeros(inside.shape, np.int32)
        tokens[inside] = np.concatenate([prompt[start : start + width] for prompt in prompts])
        yield {
            "tokens": tokens,
            "positions": np.where(inside, first + index, 0).astype(np.int32),
            "segments": inside.astype(np.int32),
            "ends": (index == lengths - 1).astype(np.int32),
        }
