"""The known RoPE scalings. To add one: a function (config, d) -> (inverse frequencies, factor), a line in SCALINGS."""
import functools

import numpy as np

from longctx.config import RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.positions import scaling

SCALINGS = {"none": scaling.none, "linear": scaling.linear, "ntk": scaling.ntk, "yarn": scaling.yarn,
            "llama3": scaling.llama3}
NEED_ORIGINAL_LENGTH = ("yarn", "llama3")


@functools.cache
def frequencies(config: RopeConfig, d: int) -> tuple[np.ndarray, float]:
    """Inverse frequencies float64 [d/2] in radians per token, and the factor on cos and sin.

    Raises:
      UserError: for an unknown scaling, or one that misses a setting.
    """
    check(config)
    return SCALINGS[config.scaling](config, d)


def check(config: RopeConfig, field: str = "model.rope") -> None:
    """Raise UserError where `config` cannot work; `field` names it in the message."""
    if config.scaling not in SCALINGS:
        raise unknown_name(f"{field}.scaling", config.scaling, SCALINGS)
    if config.base <= 1:
        raise UserError(f"{field}.base={config.base} must be above 1, e.g. 10000.")
    if config.factor <= 0:
        raise UserError(f"{field}.factor={config.factor} must be positive: target length / original length.")
    if config.scaling in NEED_ORIGINAL_LENGTH and config.original_length <= 0:
        raise UserError(f"{field}.original_length={config.original_length} must be the trained length "
                        f"for {field}.scaling={config.scaling!r}.")
    if config.scaling == "llama3" and config.high_freq_factor <= config.low_freq_factor:
        raise UserError(f"{field}.high_freq_factor={config.high_freq_factor} must exceed "
                        f"low_freq_factor={config.low_freq_factor}.")
