"""position * frequency as an angle that is exact at any position, in 32-bit arithmetic.

A float32 product of a position and a frequency is off by 6e-2 rad at a million tokens. Here a frequency is a 64-bit
fraction of a turn, and the integer product with the position wraps around as an angle does: what is left is a fraction
of a turn, and only that becomes a float32.
"""

import fractions
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TURN = fractions.Fraction("6.2831853071795864769252867665590057683943387987502")  # 2 pi


class Turns(NamedTuple):
    """Frequencies as turns per token, modulo one: the two uint32 words of round(turns * 2^64), of one shape."""

    high: jax.Array | np.ndarray
    low: jax.Array | np.ndarray


def constant_turns(frequencies: np.ndarray) -> Turns:
    """Turns of float64 frequencies in radians per token, constants of the program: numpy, exact to 2^-65 turns."""
    exact = [round(fractions.Fraction(f) / _TURN * 2**64) % 2**64 for f in frequencies.ravel().tolist()]
    words = np.array(exact, np.uint64).reshape(frequencies.shape)
    return Turns((words >> np.uint64(32)).astype(np.uint32), words.astype(np.uint32))


def learned_turns(frequencies: jax.Array) -> Turns:
    """Turns of an array of frequencies below 2 pi radians per token, rounded once, to float32 turns."""
    turns = frequencies.astype(jnp.float32) * np.float32(1 / _TURN) * 2.0**32
    high = jnp.floor(turns)
    return Turns(high.astype(jnp.uint32), ((turns - high) * 2.0**32).astype(jnp.uint32))


def angles(positions: jax.Array, turns: Turns) -> jax.Array:
    """positions * turns as float32 angles in [-pi, pi), off by 3e-7 rad at most.

    positions: int32, not negative, of a shape that broadcasts with that of the turns.
    """
    position = positions.astype(jnp.uint32)
    # the high word of position * low; the carries between halves that are left out are worth 2^-31 turns
    top, rest = position >> 16, position & 0xFFFF
    low_top, low_rest = turns.low >> 16, turns.low & 0xFFFF
    carried = top * low_top + (top * low_rest >> 16) + (rest * low_top >> 16)
    fraction = position * turns.high + carried  # of a turn, times 2^32
    signed = jax.lax.bitcast_convert_type(fraction, jnp.int32)
    return signed.astype(jnp.float32) * np.float32(2 * np.pi / 2**32)
