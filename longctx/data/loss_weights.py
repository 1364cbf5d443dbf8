"""What the tokens of a document count in the loss, by name: data.loss_weights. Free of jax.

A piece of a document with n targets counts n^exponent, shared by its targets. The loss divides by the sum of all
weights of the global batch, so it is sum(n^exponent * mean of the piece) / sum(n^exponent), whatever the rows, devices
and hosts. To add one: a class here with `exponent`, and a line in LOSS_WEIGHTS.
"""

import dataclasses
from typing import Protocol

import numpy as np

from longctx.parsing import parse_call


class LossWeights(Protocol):
    """The exponent of a document's targets in what it counts."""

    @property
    def exponent(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Every token counts the same, so long documents count most."""

    exponent = 1.0


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Every document counts the same (LongAlign, arXiv 2401.18058; LWM's masked packing, arXiv 2402.08268)."""

    exponent = 0.0


@dataclasses.dataclass(frozen=True)
class Documents:
    """In between: documents(1) is tokens, documents(0) sequences."""

    exponent: float


LOSS_WEIGHTS: dict[str, type[LossWeights]] = {"tokens": Tokens, "sequences": Sequences, "documents": Documents}


def parse(text: str) -> LossWeights:
    """The weights that data.loss_weights names. Raises UserError for what is none."""
    kind, numbers = parse_call("data.loss_weights", text, LOSS_WEIGHTS, zero=True)
    return kind(*numbers)


def weighted(batch: dict[str, np.ndarray], exponent: float) -> dict[str, np.ndarray]:
    """The batch, the weights of each piece times n^(exponent - 1). n: its targets that count at all."""
    if exponent == 1.0:
        return batch
    rows, pieces = len(batch["segments"]), batch["segments"].max(initial=0) + 1
    at = batch["segments"] + pieces * np.arange(rows)[:, None]
    n = np.bincount(at.ravel(), (batch["weights"] != 0).ravel(), rows * pieces)
    return batch | {"weights": batch["weights"] * (np.maximum(n, 1) ** (exponent - 1)).astype(np.float32)[at]}
