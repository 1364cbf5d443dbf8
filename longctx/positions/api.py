"""The frequencies that a RopeConfig asks for, and its checks. The scalings are in scalings.py.

Free of jax: settings are checked here before it starts. Nothing below this file sees a RopeConfig's single numbers.
"""

import dataclasses
import functools
import math
import numbers

from longctx.config import RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.positions import scalings
from longctx.positions.scalings import Frequencies, Rotation, Scaling

# the axis of the two members of a pair, once the rotating dimensions are cut into pairs
PAIRINGS = {"half": -2, "interleaved": -1}
_NOT_NEGATIVE = ("attention_factor", "mscale", "mscale_all_dim")  # whatever the scaling


@functools.cache
def frequencies(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """Inverse frequencies float64 [pairs] in radians per token, and the factor on cos and sin, for rows of `length`.

    The pairs are those that rotate, head_dim / 2 or fewer.

    Raises:
      UserError: for an unknown scaling, or one that misses a setting.
    """
    check(config, head_dim)
    scaling = scalings.of(config)
    if scaling.by_length and (not isinstance(length, numbers.Integral) or length < 1):
        raise UserError(
            f"length={length!r} must be that of a row, from 1 on, for model.rope.scaling={config.scaling!r}."
        )
    return scaling.frequencies(rotation(config, head_dim), length)


def rotation(config: RopeConfig, head_dim: int) -> Rotation:
    """The rotation of a RopeConfig without its scaling."""
    return Rotation(config.theta, head_dim, config.rotary_fraction)


def check(config: RopeConfig, head_dim: int, field: str = "model.rope") -> None:
    """Raise UserError where `config` cannot work in heads of that size; `field` names it in the message."""
    kind, _ = scalings.named(config.scaling, f"{field}.scaling")
    if config.pairing not in PAIRINGS:
        raise unknown_name(f"{field}.pairing", config.pairing, PAIRINGS)
    _check_numbers(config, head_dim, field)
    scaling = scalings.of(config, field)
    if getattr(scaling, "original_length", kind.shortest) < kind.shortest:
        raise UserError(
            f"{field}.original_length={config.original_length} must be the trained length "
            f"for {field}.scaling={config.scaling!r}, at least {kind.shortest}."
        )
    _check_size(config, scaling, rotation(config, head_dim), field)
    if reason := scaling.why_not(rotation(config, head_dim)):
        raise UserError(f"{field}.{reason}.")


def _check_numbers(config: RopeConfig, head_dim: int, field: str) -> None:
    """The ranges of the numbers, whatever the scaling."""
    if head_dim < 1:
        raise UserError(f"head_dim={head_dim} must be at least 1.")
    for name, value in dataclasses.asdict(config).items():
        if name in ("scaling", "pairing"):
            continue
        held: list[object] = [*value] if isinstance(value, tuple) else [value]
        if not all(isinstance(number, numbers.Real) and math.isfinite(number) for number in held):
            raise UserError(f"{field}.{name}={value!r} must be finite, a number.")
    if config.theta <= 1:
        raise UserError(f"{field}.theta={config.theta} must be above 1, e.g. 10000.")
    if config.factor <= 0:
        raise UserError(f"{field}.factor={config.factor} must be positive: target length / original length.")
    if not 0 <= config.rotary_fraction <= 1:
        raise UserError(
            f"{field}.rotary_fraction={config.rotary_fraction} must be between 0 (NoPE) and 1 (whole heads)."
        )
    for name in _NOT_NEGATIVE:
        if getattr(config, name) < 0:
            raise UserError(f"{field}.{name}={getattr(config, name)} must not be negative.")


def _check_size(config: RopeConfig, scaling: Scaling, rotation: Rotation, field: str) -> None:
    """Raise UserError where a scaling cannot work with the number of dimensions that rotate."""
    d, head_dim = rotation.size, rotation.head_dim
    if d % 2 and not scaling.whole_head:
        raise UserError(
            f"{field}.rotary_fraction={config.rotary_fraction} makes {d} of {head_dim} dimensions rotate, and "
            f"they go in pairs; {(d + 1) / head_dim} works."
        )
    if 0 < d < scaling.least_size:
        raise UserError(
            f"{field}.scaling={config.scaling!r} needs {scaling.least_size} dimensions that rotate, and "
            f"{field}.rotary_fraction={config.rotary_fraction} leaves {d} of {head_dim}."
        )
