"""`generate` and `stream` continue prompts of different lengths together, through a cache, on any mesh."""

from collections.abc import Iterable, Iterator

import jax
import numpy as np
from flax import nnx
from jaxtyping import Int

from longctx.config import ModelConfig, RopeConfig
from longctx.errors import UserError, as_user_error
from longctx.generation import decode, reading
from longctx.generation.request import Request, token_ids
from longctx.model import functional
from longctx.positions import api as positions
from longctx.positions import scalings
from pallas_kernels.arguments import require_whole
from pallas_kernels.masks import MOST

NONE = -1  # in place of a token of a row that has ended


def generate(
    graph: nnx.GraphDef, params: dict, prompts: Iterable, max_new_tokens: int, **options
) -> list[Int[np.ndarray, " new"]]:
    """The new tokens of each prompt, int32: max_new_tokens, or fewer with one of `stop` as the last.

    Arguments as for `stream`.
    """
    steps = np.stack(list(stream(graph, params, prompts, max_new_tokens, **options)), 1)
    return [row[row != NONE] for row in steps]


def stream(
    graph: nnx.GraphDef,
    params: dict,
    prompts: Iterable,
    max_new_tokens: int,
    *,
    rope: RopeConfig | None = None,
    length: int | None = None,
    key: jax.Array | None = None,
    **options,
) -> Iterator[Int[np.ndarray, " B"]]:
    """The new tokens step by step: int32 [B] each, NONE for a row that has ended. Runs under `jax.set_mesh`.

    Args:
      graph, params: see model.functional; on the mesh.
      prompts: arrays of token ids, of any lengths.
      rope: replaces the model's RopeConfig.
      length: the row length that RoPE scalings which depend on it (dynamic, LongRoPE, CLEX) assume from the first token
        on; the tokens equal those of the uncached model at this `length`. Default: for each row its own prompt +
        max_new_tokens, so that a row depends on no other row, but on how many tokens it may get.
      key: a key of jax.random; equal keys give equal tokens. Default: jax.random.key(0).
      options: the other fields of Request: chunk, stop, and those of Sampling: temperature, top_p and so on.

    Raises:
      UserError: for numbers that cannot work, an empty prompt, ids that the model does not know, a mask under which
        tokens see later ones, logits that are NaN.
    """
    request = Request(max_new_tokens=max_new_tokens, **options).check()
    params, mesh = functional.forward_only(params), jax.sharding.get_mesh()
    model = functional.merged(graph, params)
    if request.stop:
        token_ids("stop", request.stop, model.config.vocab_size, "T")
    _check_rope(rope, length, model.config)
    prompts = _checked(prompts, model.config.vocab_size)
    rows = len(prompts)
    prompts += prompts[:1] * (-rows % (mesh.shape["data"] * mesh.shape["fsdp"]))
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    longest = int(lengths.max()) + max_new_tokens
    by_length = any(scalings.of(kind.rope or rope or model.config.rope).by_length for kind in model.config.kinds)
    by_row = length or tuple(int(count) + max_new_tokens for count in lengths)
    # a static argument that differs from request to request would compile the steps again
    static = graph, rope, by_row if by_length else 0
    size = reading.round_up(longest, request.chunk)
    cache, last = reading.begin(static, params, model.config, prompts, size, request.chunk)
    key = jax.random.key(0) if key is None else key
    choose = decode.Chooser(graph, params, request.sampling, key, prompts, model.config.vocab_size)
    done = np.zeros(rows, bool)
    for step, tokens in enumerate(_tokens(static, params, cache, last, lengths, max_new_tokens, choose)):
        chosen = np.where(done, NONE, np.asarray(tokens)[:rows])
        check_chosen(chosen[~done], step, model.config)
        yield chosen
        done |= np.isin(chosen, request.stop)
        if done.all():
            return


def _tokens(static: tuple, params, cache, last, lengths: np.ndarray, count: int, choose) -> Iterator[jax.Array]:
    """The next token of every row, int32 [B], for each of `count` steps; -1 where logits are NaN.

    choose: the last hidden states -> tokens.
    """
    for step in range(count):
        tokens = choose(last)
        if step == 0:  # need not wait until the step that reads it is compiled
            yield tokens
        if step + 1 < count:  # runs while the caller looks at the tokens
            cache, last = decode.read_one(*static, params, cache, tokens, lengths + step)
        if step > 0:
            yield tokens


def check_chosen(tokens: np.ndarray, step: int, config: ModelConfig) -> None:
    """Raises UserError where a token was chosen from logits that are NaN."""
    if (tokens < 0).any():
        raise UserError(
            f"the model's logits are NaN after {step} new tokens: its weights or its dtype, {config.dtype}, overflow."
        )


def _checked(prompts: Iterable, vocab_size: int) -> list[np.ndarray]:
    prompts = [token_ids(f"prompts[{i}]", prompt, vocab_size, "T") for i, prompt in enumerate(prompts)]
    if not prompts:
        raise UserError("prompts=[] must hold one at least.")
    return prompts


def _check_rope(rope: RopeConfig | None, length: int | None, config: ModelConfig) -> None:
    if rope is not None:
        if not isinstance(rope, RopeConfig):
            raise UserError(f"rope={rope!r} must be a RopeConfig, such as RopeConfig(scaling='linear', factor=4.0).")
        positions.check(rope, config.head_dim, "rope")
    if length is not None:
        as_user_error(require_whole, "length", length, 1, MOST)
