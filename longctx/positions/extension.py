"""How a model that was trained at one length is read, or tuned, at a longer one: position methods as changed settings.

An extension maps (model, trained length, length) to the settings by which the model is read at the length, both in
tokens; `at` reads a length inside the trained one as that is, so that what a method costs there is a baseline. To add
one: a function and a line in EXTENSIONS; to add a tuning: a line in TUNINGS. In docstrings L is the trained length and
T the other one. Free of jax.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from longctx.config import ModelConfig, RopeConfig

Extension = Callable[[ModelConfig, int, int], ModelConfig]


def none(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """The settings by which the model was trained."""
    return model


def at(name: str, model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """The settings by which the extension called `name` reads a length that may be inside the trained one."""
    return EXTENSIONS[name](model, trained, max(trained, length))


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A RoPE scaling by T / L; scaling: a name in scalings.SCALINGS.

    Where the model's own RoPE is scaled already, the new scaling takes its place, from the same original length on. A
    scaling by 1 is none.
    """

    scaling: str

    def __call__(self, model: ModelConfig, trained: int, length: int) -> ModelConfig:
        original = _unscaled(model, trained)
        return model if length == original else _scaled(model, self.scaling, length / original, original)


def dynamic(model: ModelConfig, trained: int, length: int) -> ModelConfig:
    """Dynamic NTK with the usual factor of 2: the same settings for all lengths, which it sees itself."""
    return _scaled(model, "dynamic", 2.0, _unscaled(model, trained))


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


def _scaled(model: ModelConfig, scaling: str, factor: float, original: int) -> ModelConfig:
    """The model with a scaling of its RoPE; where it has another one, the numbers of that are not taken over."""
    rope = model.rope
    if rope.scaling not in ("none", scaling):
        rope = RopeConfig(theta=rope.theta, pairing=rope.pairing, rotary_fraction=rope.rotary_fraction)
    changed = dataclasses.replace(rope, scaling=scaling, factor=factor, original_length=original)
    return dataclasses.replace(model, rope=changed)


def _unscaled(model: ModelConfig, trained: int) -> int:
    """The length that the model was trained at before its own RoPE was scaled."""
    return trained if model.rope.scaling == "none" else model.rope.original_length or trained
