"""How a model that was trained at one length is read, or tuned, at a longer one: position methods as changed settings.

An extension maps (model, trained length, length) to the settings by which the model is read at the length, both in
tokens. To add one: a function and a line in EXTENSIONS; to add a tuning: a line in TUNINGS. In docstrings L is the
trained length and T the other one. Free of jax.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from longctx.config import ModelConfig

Extension = Callable[[ModelConfig, int, int], ModelConfig]


def none(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """The settings by which the model was trained."""
    return model


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A RoPE scaling by T / L; scaling: a name in scalings.SCALINGS."""

    scaling: str

    def __call__(self, model: ModelConfig, trained: int, length: int) -> ModelConfig:
        return _with_rope(model, scaling=self.scaling, factor=length / trained, original_length=trained)


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


def rerope(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """No distance exceeds L / 2."""
    return dataclasses.replace(model, position=f"rerope({trained // 2})")


def lm_infinite(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """The last L tokens and the first 10, as published."""
    return dataclasses.replace(model, position=f"lm_infinite(10, {trained})")


def streaming(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """A cache of L tokens: the first 4, as published, and the last L - 4."""
    return dataclasses.replace(model, position=f"streaming(4, {trained - 4})")


EXTENSIONS = {
    "none": none,
    "linear": Scaled("linear"),
    "ntk": Scaled("ntk"),
    "dynamic": dynamic,
    "yarn": Scaled("yarn"),
    "self_extend": self_extend,
    "rerope": rerope,
    "leaky_rerope": leaky_rerope,
    "dca": dca,
    "lm_infinite": lm_infinite,
    "streaming": streaming,
}


class Tuning(NamedTuple):
    """A few more steps of training for a target length.

    Attributes:
      trained, read: names in EXTENSIONS, by whose settings for the target length the model is trained, then read.
      augment: the augmentation that stands for rows of the target length; "none" is training on such rows.
    """

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
