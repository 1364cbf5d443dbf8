"""Request, the settings of a generation, with its checks. Free of jax: a command checks before it loads a model."""

import dataclasses
import math
import numbers

import numpy as np

from longctx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Request:
    """The settings by which prompts are continued.

    Attributes:
      max_new_tokens: the most tokens that a row gets.
      chunk: tokens of the prompt that are read at a time.
      temperature, top_p: see generation.sampling.sample; temperature 0 takes the likeliest token.
      stop: tokens that end a row.
    """

    max_new_tokens: int
    chunk: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[int, ...] = ()

    def check(self) -> "Request":
        """The request itself. Raises UserError for a number that cannot work."""
        for name in ("max_new_tokens", "chunk"):
            if not _whole(getattr(self, name)) or getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)!r} must be at least 1 token, in whole numbers.")
        check_sampling(self.temperature, self.top_p)
        if not isinstance(self.stop, tuple | list) or not all(_whole(token) and token >= 0 for token in self.stop):
            raise UserError(f"stop={self.stop!r} must be a tuple of token ids, such as (2,), or ().")
        return self


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises UserError for a temperature or top_p that sampling.sample cannot take."""
    if not _real(temperature) or not 0 <= temperature < math.inf:
        raise UserError(f"temperature={temperature!r} must be 0 (the likeliest token) or above, such as 0.8.")
    if not _real(top_p) or not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p!r} must be above 0 and at most 1, which leaves out no token.")


def token_ids(field: str, ids, vocab_size: int, axes: str) -> np.ndarray:
    """`ids` as an int32 array with the axes "T" or "BT", each id from 0 to vocab_size - 1.

    Raises UserError for another shape, another dtype or other ids; `field` names the array in the message.
    """
    try:
        ids = np.asarray(ids)
    except ValueError as error:
        raise UserError(f"{field} is no array: {error}") from error
    what = "a row of token ids" if axes == "T" else "token ids [B, T], rows of one length"
    if ids.ndim != len(axes) or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"{field} is {ids.dtype}{list(ids.shape)}; it must be {what}, at least one, in integers.")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise UserError(
            f"{field} holds ids from {ids.min()} to {ids.max()}; those of the model are from 0 to {vocab_size - 1}."
        )
    return ids.astype(np.int32)


def stops(tokens, vocab_size: int) -> tuple[int, ...]:
    """The stop tokens below vocab_size: a Hugging Face folder may name others, which the model never gives."""
    return tuple(token for token in tokens if token < vocab_size)


def _whole(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _real(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
