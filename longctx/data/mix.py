"""How much of each source of data.mix a stage is fed. Free of jax.

Shares are weights: each source gets its share of their sum, times tokens^(1/temperature) of the source where
data.mix_temperature asks for it. A source that reaches its cap of epochs stays there, and the others take the rest by
their shares (UniMax, arXiv 2304.09151, with shares in place of equal ones).
"""

import re
from collections.abc import Sequence

import numpy as np

from longctx.config import DataConfig
from longctx.data import selecting
from longctx.data.curriculum import Stage
from longctx.errors import UserError
from longctx.parsing import parse_call


def check(config: DataConfig, stages: Sequence[Stage]) -> None:
    """Raises UserError for sources of data.mix, or shares of a stage, that cannot be."""
    names = [source.name for source in config.mix]
    for i, source in enumerate(config.mix):
        field = f"data.mix[{i}]"
        if not re.fullmatch(r"\w+", source.name) or names.index(source.name) < i:
            raise UserError(f"{field}.name={source.name!r} must be letters, digits and _, and no other source's name.")
        if not source.path:
            raise UserError(f"{field}.path is empty; source {source.name} needs a file or folder.")
        selecting.check(field, source.scores, source.keep)
        for name in ("share", "cap", "shortest", "longest"):
            if not getattr(source, name) >= 0:
                raise UserError(f"{field}.{name}={getattr(source, name)} must be at least 0.")
    selecting.check("data", config.scores, config.keep)
    if not config.mix:
        _check_alone(config, stages)
    for stage in stages:
        if config.mix and not sum(_asked(config, stage)):
            raise UserError(f"data.mix: all shares are 0 in stages[{stage.index}]; give at least one source a share.")


def _check_alone(config: DataConfig, stages: Sequence[Stage]) -> None:
    """Raises UserError for a setting of mixed sources where there is one source."""
    given = {f"stages[{stage.index}].mix": stage.mix for stage in stages if stage.mix}
    given |= {
        f"data.{name}": getattr(config, name) for name in ("mix_temperature", "most_epochs") if getattr(config, name)
    }
    for field, value in given.items():
        raise UserError(f"{field}={value!r} has no effect: data.mix is empty; it lists sources.")


def _asked(config: DataConfig, stage: Stage) -> list[float]:
    """The share of each source as the settings have it."""
    shares = {source.name: source.share for source in config.mix}
    if not stage.mix:
        return [*shares.values()]

    def named(share: float) -> float:
        return share

    own = dict.fromkeys(shares, 0.0)
    for i, text in enumerate(stage.mix):
        _, numbers = parse_call(f"stages[{stage.index}].mix[{i}]", text, dict.fromkeys(shares, named), zero=True)
        own[text.partition("(")[0].strip()] = numbers[0]
    return [*own.values()]


def shares(config: DataConfig, stage: Stage, tokens: Sequence[int]) -> np.ndarray:
    """f64[sources]: the part of the text of a stage that each source of data.mix makes; the sum is 1.

    tokens: of each source. Raises UserError where all sources that have a share are at their caps, and for a source
    that would be read more than data.most_epochs times.
    """
    sizes = np.maximum(np.array(tokens, float), 1)
    weights = np.array(_asked(config, stage))
    if config.mix_temperature > 0:
        weights = weights * (sizes / sizes.max()) ** (1 / config.mix_temperature)
    fed = stage.steps * stage.batch_tokens
    caps = np.array([source.cap or np.inf for source in config.mix])
    found = _capped(weights / weights.sum(), caps * stage.part * sizes / fed, stage)
    epochs = found * fed / (stage.part * sizes)
    if 0 < config.most_epochs < epochs.max():
        i = int(epochs.argmax())
        raise UserError(
            f"data.mix[{i}]: source {config.mix[i].name} of {tokens[i]:,} tokens would be read {epochs[i]:.3g} times "
            f"at the pace of stages[{stage.index}], and data.most_epochs={config.most_epochs:g}; a smaller share, more "
            "text or fewer steps work."
        )
    return found


def _capped(shares: np.ndarray, limits: np.ndarray, stage: Stage) -> np.ndarray:
    """The shares, none of them above its limit: what is above goes to the others by their shares."""
    at_limit = np.zeros(len(shares), bool)
    while True:
        free = np.where(at_limit, 0, shares)
        room = 1 - limits[at_limit].sum()
        if room > 1e-12 and not free.sum():
            raise UserError(
                f"data.mix: every source with a share is at its cap in stages[{stage.index}], and {room:.1%} of the "
                "tokens are left; raise a cap, or take fewer steps."
            )
        found = np.where(at_limit, limits, free * room / (free.sum() or 1))
        above = ~at_limit & (found > limits)
        if not above.any():
            return found
        at_limit |= above
