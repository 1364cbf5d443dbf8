"""Factors on queries that grow with their position, so that attention over more keys stays as sharp.

Each gives float32 factors, of the shape of the positions, for queries BTNH as q * factor[:, :, None, None]. To add one:
a function, and a line in QUERY_SCALES.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from longctx.errors import UserError
from longctx.parsing import parse_call


def none(positions: jax.Array) -> None:
    """No factor."""
    return None


def llama4(positions: jax.Array, floor_scale: int = 8192, attn_scale: float = 0.1) -> jax.Array:
    """1 + attn_scale * ln(1 + floor((position + 1) / floor_scale)): for the layers without RoPE of Llama 4."""
    return 1 + attn_scale * jnp.log1p(((positions + 1) // floor_scale).astype(jnp.float32))


def log_length(positions: jax.Array, length: int) -> jax.Array:
    """ln(position + 1) / ln(length), at least 1: "log n" beyond a trained length above 1, an option of Self-Extend."""
    return jnp.maximum(jnp.log1p(positions.astype(jnp.float32)) / math.log(length), 1.0)


def mscale(positions: jax.Array, stretch: float) -> jax.Array:
    """0.1 ln(stretch) + 1 for all: what Dual Chunk Attention takes of YaRN, stretch being length / trained length."""
    return jnp.full(positions.shape, 0.1 * math.log(stretch) + 1, jnp.float32)


QUERY_SCALES = {"none": none, "llama4": llama4, "log_length": log_length, "mscale": mscale}


def parse(text: str, field: str = "model.query_scale") -> Callable[[jax.Array], jax.Array | None]:
    """positions -> factors, or None for no factor, of a setting such as "llama4(8192, 0.1)". Raises UserError."""
    factor, numbers = parse_call(field, text, QUERY_SCALES, skip=1)
    if factor is log_length and numbers[0] < 2:
        raise UserError(f"{field}={text!r} divides by ln(1) = 0; length must be 2 or more.")
    if factor is mscale and numbers[0] < 1:
        raise UserError(f"{field}={text!r}: stretch must be at least 1, length / trained length.")
    return lambda positions: factor(positions, *numbers)
