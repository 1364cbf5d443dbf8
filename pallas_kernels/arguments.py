"""Checks of what callers give to public functions: shapes and dtypes always, values where they are known already.

Each raises a ValueError that names both sides. Under a trace shapes and dtypes are known and values are not, so that a
compiled program has no trace of a check.
"""

import math
import numbers
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

AnyArray = jax.Array | np.ndarray
FLOATS = ("float16", "bfloat16", "float32", "float64")


def said(name: str, x: AnyArray) -> str:
    """An array in a message: "q bfloat16[2, 128, 4, 64]"."""
    return f"{name} {jnp.dtype(x.dtype).name}{list(x.shape)}"


def short(value: object) -> str:
    """Anything in a message, on one line."""
    return textwrap.shorten(repr(value), 60, placeholder="...")


def require_floats(name: str, x: object, letters: str) -> None:
    """Requires an array of floating-point numbers with an axis for each of the letters, none of them empty."""
    x = _require_array(name, x, letters)
    if jnp.dtype(x.dtype).name not in FLOATS:
        raise ValueError(f"{said(name, x)} must be of one of the dtypes {', '.join(FLOATS)}.")


def require_integers(name: str, x: object, letters: str) -> None:
    """Requires an array of integers, which booleans are not, with an axis for each of the letters, none empty."""
    x = _require_array(name, x, letters)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"{said(name, x)} must be integers, such as int32.")


def require_range(name: str, x: AnyArray, least: int, most: int, where: np.ndarray | bool = True) -> None:
    """Requires the numbers of x to be from `least` to `most`, `where` they count; passes if x is not known yet."""
    values = known(x)
    if values is None or not (values := values[np.broadcast_to(where, values.shape)]).size:
        return
    if values.min() < least or values.max() > most:
        raise ValueError(
            f"{said(name, x)} holds numbers from {values.min()} to {values.max()}, and they must be from "
            f"{least} to {most}."
        )


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Requires a setting to be a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= most:
        raise ValueError(f"{name}={short(value)} must be a whole number from {least} to {most}.")


def require_finite(name: str, value: object, least: float, hint: str) -> None:
    """Requires a setting to be a finite number, not below `least`; the hint says what such a one means."""
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number < least:
        raise ValueError(f"{name}={short(value)} must be a finite number, {hint}.")


def known(x: AnyArray) -> np.ndarray | None:
    """The values of an array, or None where they cannot be had: under a trace, or with parts on other processes."""
    if isinstance(x, Tracer) or isinstance(x, jax.Array) and not x.is_fully_addressable:
        return None
    return np.asarray(x)


def _require_array(name: str, x: object, letters: str) -> AnyArray:
    if not isinstance(x, jax.Array | np.ndarray):
        raise ValueError(f"{name} is of type {type(x).__name__}, and must be an array [{', '.join(letters)}].")
    if x.ndim != len(letters) or 0 in x.shape:
        raise ValueError(f"{said(name, x)} must have the axes [{', '.join(letters)}], none of them empty.")
    return x
