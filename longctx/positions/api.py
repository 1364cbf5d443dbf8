"""The known RoPE scalings and pairings. To add a scaling: a function in scaling.py, a line in SCALINGS.

Free of jax: settings are checked here before it starts.
"""

import dataclasses
import functools
import math
import numbers

from longctx.config import RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.positions import scaling
from longctx.positions.scaling import Frequencies

SCALINGS = {
    "none": scaling.none,
    "linear": scaling.linear,
    "ntk": scaling.ntk,
    "dynamic": scaling.dynamic,
    "yarn": scaling.yarn,
    "longrope": scaling.longrope,
    "llama3": scaling.llama3,
    "proportional": scaling.proportional,
    "power": scaling.power,
    "truncated": scaling.truncated,
    "clex": scaling.clex,
}
# the axis of the two members of a pair, once the rotating dimensions are cut into pairs
PAIRINGS = {"half": -2, "interleaved": -1}
NEED_ORIGINAL_LENGTH = {"dynamic": 1, "yarn": 1, "longrope": 2, "llama3": 1, "truncated": 1, "clex": 1}  # at least
# the fields of RopeConfig that a scaling reads beside theta, pairing, rotary_fraction and original_length
READS = {
    "none": (),
    "linear": ("factor",),
    "ntk": ("factor",),
    "dynamic": ("factor",),
    "proportional": ("factor",),
    "yarn": ("factor", "beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor"),
    "longrope": ("factor", "short_factors", "long_factors", "attention_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "power": ("power",),
    "truncated": (),
    "clex": ("factor", "clex_width"),
}
BY_LENGTH = frozenset({"dynamic", "longrope", "clex"})  # those that ask for a row's length
NEED_FOUR_DIMENSIONS = ("ntk", "dynamic", "clex")


@functools.cache
def frequencies(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """Inverse frequencies float64 [pairs] in radians per token, and the factor on cos and sin, for rows of `length`.

    The pairs are those that rotate, head_dim / 2 or fewer.

    Raises:
      UserError: for an unknown scaling, or one that misses a setting.
    """
    check(config, head_dim)
    if config.scaling in BY_LENGTH and (not isinstance(length, numbers.Integral) or length < 1):
        raise UserError(
            f"length={length!r} must be that of a row, from 1 on, for model.rope.scaling={config.scaling!r}."
        )
    return SCALINGS[config.scaling](config, head_dim, length)


def check(config: RopeConfig, head_dim: int, field: str = "model.rope") -> None:
    """Raise UserError where `config` cannot work in heads of that size; `field` names it in the message."""
    if config.scaling not in SCALINGS:
        raise unknown_name(f"{field}.scaling", config.scaling, SCALINGS)
    if config.pairing not in PAIRINGS:
        raise unknown_name(f"{field}.pairing", config.pairing, PAIRINGS)
    _check_numbers(config, head_dim, field)
    if config.theta <= 1:
        raise UserError(f"{field}.theta={config.theta} must be above 1, e.g. 10000.")
    if config.factor <= 0:
        raise UserError(f"{field}.factor={config.factor} must be positive: target length / original length.")
    if not 0 <= config.rotary_fraction <= 1:
        raise UserError(
            f"{field}.rotary_fraction={config.rotary_fraction} must be between 0 (NoPE) and 1 (whole heads)."
        )
    needed = NEED_ORIGINAL_LENGTH.get(config.scaling, 0)
    if config.original_length < needed:
        raise UserError(
            f"{field}.original_length={config.original_length} must be the trained length "
            f"for {field}.scaling={config.scaling!r}, at least {needed}."
        )
    _check_size(config, head_dim, field)
    _check_knobs(config, field)


def _check_numbers(config: RopeConfig, head_dim: int, field: str) -> None:
    if head_dim < 1:
        raise UserError(f"head_dim={head_dim} must be at least 1.")
    for name, value in dataclasses.asdict(config).items():
        held = () if name in ("scaling", "pairing") else value if isinstance(value, tuple) else (value,)
        if not all(isinstance(number, numbers.Real) and math.isfinite(number) for number in held):
            raise UserError(f"{field}.{name}={value!r} must be finite, a number.")


def _check_size(config: RopeConfig, head_dim: int, field: str) -> None:
    d = scaling.rotary_size(config, head_dim)
    if d % 2 and config.scaling != "proportional":
        raise UserError(
            f"{field}.rotary_fraction={config.rotary_fraction} makes {d} of {head_dim} dimensions rotate, and "
            f"they go in pairs; {(d + 1) / head_dim} works."
        )
    if config.scaling in NEED_FOUR_DIMENSIONS and d == 2:
        raise UserError(
            f"{field}.scaling={config.scaling!r} needs 4 dimensions that rotate, and {field}.rotary_fraction="
            f"{config.rotary_fraction} leaves {d} of {head_dim}."
        )
    if config.scaling == "longrope":
        for name in ("short_factors", "long_factors"):
            factors = getattr(config, name)
            if len(factors) != d // 2 or min(factors, default=1) <= 0:
                raise UserError(
                    f"{field}.{name} holds {len(factors)} numbers, and must hold a positive one for each "
                    f"of the {d // 2} pairs of dimensions that rotate."
                )


def _check_knobs(config: RopeConfig, field: str) -> None:
    if config.scaling == "yarn" and not config.beta_fast > config.beta_slow > 0:
        raise UserError(f"{field}.beta_fast={config.beta_fast} must exceed beta_slow={config.beta_slow}, above 0.")
    for name in ("attention_factor", "mscale", "mscale_all_dim"):
        if getattr(config, name) < 0:
            raise UserError(f"{field}.{name}={getattr(config, name)} must not be negative.")
    if config.scaling == "llama3" and config.high_freq_factor < config.low_freq_factor:
        raise UserError(
            f"{field}.high_freq_factor={config.high_freq_factor} must not be below "
            f"low_freq_factor={config.low_freq_factor}."
        )
    if config.scaling == "clex" and (config.factor != int(config.factor) or config.clex_width < 1):
        raise UserError(
            f"{field}.factor={config.factor} and {field}.clex_width={config.clex_width} must be whole "
            f"numbers from 1 on for {field}.scaling='clex': the largest t, and the width of its network."
        )
    if config.scaling == "power" and config.power <= 0:
        raise UserError(f"{field}.power={config.power} must be positive for {field}.scaling='power', e.g. 0.1.")
