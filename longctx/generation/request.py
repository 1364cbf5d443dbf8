"""Request, the settings of a generation, with its checks. Free of jax: a command checks before it loads a model."""

import dataclasses
import math
import numbers

import numpy as np

from longctx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The way in which the next token is drawn. See generation.sampling.

    Attributes:
      temperature: what logits are divided by; 0 takes the likeliest token.
      top_k: only so many of the likeliest tokens can be drawn; 0 is all.
      top_p: of these, only the fewest likeliest whose probabilities sum to at least top_p (nucleus sampling, arXiv
        1904.09751).
      min_p: only tokens at least min_p times as probable as the likeliest (arXiv 2407.01082).
      repetition_penalty: tokens that the row has are made less likely by it (arXiv 1909.05858); 1 is none.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def check(self) -> "Sampling":
        """Returns itself. Raises UserError for a number that cannot be, or has no effect beside the others."""
        if not _real(self.temperature) or not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature!r} must be 0 (the likeliest token) or above, such as 0.8.")
        if not _whole(self.top_k) or self.top_k < 0:
            raise UserError(f"top_k={self.top_k!r} must be a number of tokens, such as 50; 0 leaves out none.")
        if not _real(self.top_p) or not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p!r} must be above 0 and at most 1, which leaves out no token.")
        if not _real(self.min_p) or not 0 <= self.min_p <= 1:
            raise UserError(f"min_p={self.min_p!r} must be from 0, which leaves out no token, to 1.")
        if not _real(self.repetition_penalty) or not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"repetition_penalty={self.repetition_penalty!r} must be above 0, such as 1.1; 1 is none.")
        for name in ("top_k", "top_p", "min_p"):
            if self.temperature == 0 and getattr(self, name) != getattr(Sampling, name):
                raise UserError(
                    f"{name}={getattr(self, name)!r} has no effect at temperature=0, which takes the likeliest token: "
                    "leave it out, or set a temperature, such as 0.8."
                )
        return self


@dataclasses.dataclass(frozen=True)
class Request(Sampling):
    """The settings by which prompts are continued.

    Attributes:
      max_new_tokens: the most tokens that a row gets.
      chunk: tokens of the prompt that are read at a time, of a short one fewer (reading.SHORT).
      stop: tokens that end a row.
    """

    max_new_tokens: int = 1
    chunk: int = 512
    stop: tuple[int, ...] = ()

    @property
    def sampling(self) -> Sampling:
        """The settings by which a token is drawn."""
        return Sampling(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Sampling)})

    def check(self) -> "Request":
        """The request itself. Raises UserError for a number that cannot work."""
        for name in ("max_new_tokens", "chunk"):
            if not _whole(getattr(self, name)) or getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)!r} must be at least 1 token, in whole numbers.")
        super().check()
        if not isinstance(self.stop, tuple | list) or not all(_whole(token) and token >= 0 for token in self.stop):
            raise UserError(f"stop={self.stop!r} must be a tuple of token ids, such as (2,), or ().")
        return self


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
