"""The two jitted steps of generation: `read` puts tokens into the cache, `choose` picks the next token.

Compiled once per shape: prompts are read in chunks of one size, and a generated token is a chunk of one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from longctx import meshes
from longctx.config import RopeConfig
from longctx.generation.cache import extend
from longctx.generation.request import Sampling
from longctx.generation.sampling import sample
from longctx.model import functional
from pallas_kernels.masks import TokenInfo


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4, 5))
def read(graph, rope: RopeConfig | None, length: int | tuple[int, ...], params, cache, last, batch: dict):
    """(cache, last) after one chunk of the prompts.

    Args:
      length: the row length, or each row's, that RoPE scalings assume.
      last: [B, D], the hidden state of each row's last token; zeros before it was read.
      batch: [B, T] each: tokens, positions, segments (0 past the prompt's end), and `ends`, 1 at each row's last token.
    """
    model = functional.merged(graph, params)
    x, cache = extend(model, batch["tokens"], TokenInfo(batch["positions"], batch["segments"]), cache, rope, length)
    return cache, last + at_ends(x, batch["ends"])


def at_ends(x, ends):
    """The hidden states [B, D] of BTD where `ends` [B, T] is 1; zeros for a row without."""
    return jnp.einsum("BT,BTD->BD", ends.astype(x.dtype), x, out_sharding=meshes.ROWS)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def read_one(graph, rope: RopeConfig | None, length: int | tuple[int, ...], params, cache, tokens, positions):
    """(cache, last) after one more token of every row; tokens, positions: int32 [B]. See `read` for the rest."""
    return read(graph, rope, length, params, cache, 0, columns(tokens, positions, jnp.ones_like(tokens)))


def columns(tokens, positions, active) -> dict:
    """The batch for `read` of one token of every row; int32 [B] each, active: 1, or 0 for a row that gets none.

    Every context shard takes a column, and all but the first are padding.
    """
    column = lambda x: jax.sharding.reshard(
        jnp.pad(x[:, None], ((0, 0), (0, meshes.context_shards() - 1))), meshes.TOKENS
    )
    active = column(active)
    return {"tokens": column(tokens), "positions": column(positions), "segments": active, "ends": active}


@functools.partial(jax.jit, static_argnums=(0, 3))
def choose(graph, params, last, sampling: Sampling, key, step, seen=None):
    """The next token of each row, int32 [B], from its last hidden state; -1 where logits are NaN.

    step: folded into `key`, so that every step draws by a key of its own. seen: see sampling.sample.
    """
    logits = functional.merged(graph, params).logits(last, meshes.ROW_LOGITS)
    logits = jax.sharding.reshard(logits, meshes.REPLICATED)
    token = sample(logits, jax.random.fold_in(key, step), seen, **dataclasses.asdict(sampling))
    return jnp.where(jnp.isnan(logits).any(-1), -1, token)


class Chooser:
    """Chooses the tokens of a generation, one step after another, and remembers them where a penalty asks for it."""

    def __init__(self, graph, params, sampling: Sampling, key, prompts: list[np.ndarray], vocab_size: int):
        self._choose = functools.partial(choose, graph, params, sampling=sampling, key=key)
        self._step, self._seen = 0, None
        if sampling.repetition_penalty != 1:
            seen = np.zeros((len(prompts), vocab_size), bool)
            for row, prompt in zip(seen, prompts, strict=True):
                row[prompt] = True
            self._seen = jax.device_put(seen, NamedSharding(jax.sharding.get_mesh(), meshes.REPLICATED))

    def __call__(self, last) -> jax.Array:
        """The next token of each row from its last hidden state [B, D], see `choose`."""
        tokens = self._choose(last=last, step=self._step, seen=self._seen)
        if self._seen is not None:
            self._seen = _marked(self._seen, tokens)
        self._step += 1
        return tokens


@functools.partial(jax.jit, donate_argnums=0)
def _marked(seen, tokens):
    """`seen` with one more token of each row."""
    return seen | (jnp.arange(seen.shape[1])[None] == tokens[:, None])
