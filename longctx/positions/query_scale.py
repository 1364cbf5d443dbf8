"""Factors on queries that grow with their position, so that attention over more keys stays as sharp.

A query scale maps int32 positions to float32 factors of their shape: queries BTNH become q * factor[:, :, None, None].
To add one: a class, and a line in QUERY_SCALES.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from longctx.errors import UserError
from longctx.parsing import parse_call


@dataclasses.dataclass(frozen=True)
class QueryScale:
    """Base of the query scales. Frozen and hashable; the fields are the numbers in parentheses of a setting."""

    def __call__(self, positions: jax.Array) -> jax.Array | None:
        """The factors of queries at these positions; None is 1 for all."""
        return None

    def why_not(self) -> str | None:
        """The reason why the numbers cannot work; None when they do."""
        return None


class Unscaled(QueryScale):
    """No factor."""


@dataclasses.dataclass(frozen=True)
class Llama4(QueryScale):
    """1 + attn_scale * ln(1 + floor((position + 1) / floor_scale)): for the layers without RoPE of Llama 4."""

    floor_scale: int = 8192
    attn_scale: float = 0.1

    def __call__(self, positions):
        return 1 + self.attn_scale * jnp.log1p(((positions + 1) // self.floor_scale).astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class LogLength(QueryScale):
    """ln(position + 1) / ln(length), at least 1: "log n" beyond a trained length, an option of Self-Extend."""

    length: int

    def __call__(self, positions):
        return jnp.maximum(jnp.log1p(positions.astype(jnp.float32)) / math.log(self.length), 1.0)

    def why_not(self):
        return "it divides by ln(1) = 0; length must be 2 or more" if self.length < 2 else None


@dataclasses.dataclass(frozen=True)
class MScale(QueryScale):
    """0.1 ln(stretch) + 1 for all positions: what Dual Chunk Attention takes of YaRN, stretch = length / trained."""

    stretch: float

    def __call__(self, positions):
        return jnp.full(positions.shape, 0.1 * math.log(self.stretch) + 1, jnp.float32)

    def why_not(self):
        return "stretch must be at least 1, length / trained length" if self.stretch < 1 else None


QUERY_SCALES = {"none": Unscaled, "llama4": Llama4, "log_length": LogLength, "mscale": MScale}


def parse(text: str, field: str = "model.query_scale") -> QueryScale:
    """The query scale that a setting such as "none" or "llama4(8192, 0.1)" names.

    Raises:
      UserError: for anything else, or numbers that cannot work; `field` names the setting.
    """
    kind, numbers = parse_call(field, text, QUERY_SCALES)
    scale = kind(*numbers)
    if reason := scale.why_not():
        raise UserError(f"{field}={text!r} cannot work: {reason}.")
    return scale
