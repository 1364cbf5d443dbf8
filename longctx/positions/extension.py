"""How a model that was trained at one length is read, or tuned, at a longer one: position methods as changed settings.

Free of jax. To add a way to read: a function and a line in METHODS; to tune: a line in TUNINGS.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from longctx.config import ModelConfig

Change = Callable[[ModelConfig, int, int], ModelConfig]  # (model, trained length L, length T in tokens)


def none(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """As it was trained."""
    return model


def scaled(scaling: str) -> Change:
    """A RoPE scaling by T / L."""

    def change(model, trained, length):
        return _with_rope(model, scaling=scaling, factor=length / trained, original_length=trained)

    return change


def dynamic(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """Dynamic NTK with the usual factor of 2: the same settings for all lengths, which it sees itself."""
    return _with_rope(model, scaling="dynamic", factor=2.0, original_length=trained)


def self_extend(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """Window L / 4, groups of so many tokens that no distance exceeds 2 L / 3, and the published log n on queries."""
    window = trained // 4
    group = -(-(length - window) // (2 * trained // 3 - window))
    return dataclasses.replace(model, position=f"self_extend({group}, {window})", query_scale=f"log_length({trained})")


def leaky_rerope(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """Window L / 2, and so slow a growth beyond it that no distance exceeds L."""
    window = trained // 2
    return dataclasses.replace(model, position=f"leaky_rerope({window}, {-(-(length - window) // (trained - window))})")


def dca(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """Chunks of 3 L / 4, of which L / 8 are exact across their borders, and its share of YaRN's factor."""
    return dataclasses.replace(
        model, position=f"dca({3 * trained // 4}, {trained // 8})", query_scale=f"mscale({length / trained})"
    )


def by_length(position: Callable[[int], str]) -> Change:
    """A position method that only depends on L."""
    return lambda model, trained, length: dataclasses.replace(model, position=position(trained))


METHODS = {
    "none": none,
    "linear": scaled("linear"),
    "ntk": scaled("ntk"),
    "dynamic": dynamic,
    "yarn": scaled("yarn"),
    "self_extend": self_extend,
    "rerope": by_length(lambda L: f"rerope({L // 2})"),
    "leaky_rerope": leaky_rerope,
    "dca": dca,
    "lm_infinite": by_length(lambda L: f"lm_infinite(10, {L})"),
    "streaming": by_length(lambda L: f"streaming(4, {L - 4})"),
}


class Tuning(NamedTuple):
    """A few steps more: by which METHODS the model is trained and then read, at settings for the target length, and
    the augmentation that stands for rows of that length; "none" is training on such rows."""

    trained: str
    read: str
    augment: str = "none"


TUNINGS = {
    "linear": Tuning("linear", "linear"),
    "ntk": Tuning("ntk", "ntk"),
    "yarn": Tuning("yarn", "yarn"),
    "pose": Tuning("yarn", "yarn", "pose"),
    "e2llm": Tuning("none", "linear", "e2llm"),
}


def _with_rope(model: ModelConfig, **fields) -> ModelConfig:
    return dataclasses.replace(model, rope=dataclasses.replace(model.rope, **fields))
