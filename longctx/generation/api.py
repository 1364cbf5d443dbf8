"""`generate` and `stream`: prompts of different lengths continued together, through a cache, on any mesh."""
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from longctx import meshes
from longctx.config import RopeConfig
from longctx.errors import UserError
from longctx.generation import cache as caching
from longctx.generation import decode
from longctx.generation.request import Request
from longctx.model import functional
from longctx.positions.api import BY_LENGTH

NONE = -1               # in place of a token of a row that has ended


def generate(graph, params, prompts: Sequence, max_new_tokens: int, **how) -> list[np.ndarray]:
    """The new tokens of each prompt, int32: max_new_tokens, or fewer with one of `stop` as the last.

    Arguments as for `stream`.
    """
    steps = np.stack(list(stream(graph, params, prompts, max_new_tokens, **how)), 1)
    return [row[row != NONE] for row in steps]


def stream(graph, params, prompts: Sequence, max_new_tokens: int, *, rope: RopeConfig | None = None,
           length: int | None = None, key=None, **how) -> Iterator[np.ndarray]:
    """Tokens as they come: for each step int32 [B], NONE for a row that has ended. Use it under `jax.set_mesh`.

    Args:
      graph, params: see model.functional; on the mesh.
      prompts: arrays of token ids, of any lengths.
      rope: replaces the model's.
      length: what RoPE scalings that depend on a row's length take it to be, for the whole of the request: its tokens
        are those of the uncached model at this `length`. Default: the longest prompt + max_new_tokens.
      key: of jax.random; the same key gives the same tokens. Default: of seed 0.
      how: the other fields of Request: chunk, temperature, top_p, stop.

    Raises:
      UserError: for numbers that cannot work, an empty prompt, ids that the model does not know, a mask under which
        tokens see later ones.
    """
    request = Request(max_new_tokens, **how).check()
    model, mesh = functional.merged(graph, params), jax.sharding.get_mesh()
    prompts = _checked(prompts, model.config.vocab_size)
    rows = len(prompts)
    prompts += prompts[:1] * (-rows % (mesh.shape["data"] * mesh.shape["fsdp"]))
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    longest = int(lengths.max()) + max_new_tokens
    scalings = {(kind.rope or rope or model.config.rope).scaling for kind in model.config.kinds}
    # what differs from request to request would compile the steps again
    reading = graph, rope, (length or longest) if scalings & BY_LENGTH else 0, params
    cache = _empty(model.config, len(prompts), -(-longest // request.chunk) * request.chunk)
    last = jnp.zeros((len(prompts), model.config.embed), model.config.dtype, out_sharding=meshes.ROWS)
    for batch in _chunks(prompts, -(-request.chunk // meshes.context_shards()) * meshes.context_shards()):
        cache, last = decode.read(*reading, cache, last, meshes.put_whole(batch, mesh))
    key, done = jax.random.key(0) if key is None else key, np.zeros(rows, bool)
    for step in range(max_new_tokens):
        tokens = decode.choose(graph, params, last, request.temperature, request.top_p, key, step)
        if step + 1 < max_new_tokens:           # it runs while the caller looks at the tokens
            cache, last = decode.read_one(*reading, cache, tokens, lengths + step)
        chosen = np.where(done, NONE, np.asarray(tokens)[:rows])
        yield chosen
        done |= np.isin(chosen, request.stop)
        if done.all():
            return


_empty = jax.jit(caching.empty, static_argnums=(0, 1, 2))


def _checked(prompts: Sequence, vocab_size: int) -> list[np.ndarray]:
    prompts = [np.asarray(prompt) for prompt in prompts]
    for i, prompt in enumerate(prompts):
        if prompt.ndim != 1 or not len(prompt) or not np.issubdtype(prompt.dtype, np.integer):
            raise UserError(f"prompts[{i}] is {prompt.dtype}{list(prompt.shape)}; it must be a row of token ids, at "
                            "least one.")
        if prompt.min() < 0 or prompt.max() >= vocab_size:
            raise UserError(f"prompts[{i}] holds ids from {prompt.min()} to {prompt.max()}; those of the model are "
                            f"from 0 to {vocab_size - 1}.")
    if not prompts:
        raise UserError("prompts=[] must hold one at least.")
    return prompts


def _chunks(prompts: list[np.ndarray], width: int) -> Iterator[dict]:
    """Batches [B, width] for decode.read, from the prompts' beginnings to the end of the longest."""
    lengths = np.array([len(prompt) for prompt in prompts])[:, None]
    for start in range(0, lengths.max(), width):
        index = start + np.arange(width)[None]
        inside = index < lengths
        tokens = np.zeros(inside.shape, np.int32)
        tokens[inside] = np.concatenate([prompt[start:start + width] for prompt in prompts])
        yield {"tokens": tokens, "positions": np.where(inside, index, 0).astype(np.int32),
               "segments": inside.astype(np.int32), "ends": (index == lengths - 1).astype(np.int32)}
