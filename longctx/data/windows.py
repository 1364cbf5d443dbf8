"""Windows that grow inside rows of full length, by name: stages[i].window. Free of jax.

SkyLadder (arXiv 2503.15450): documents are cut every w tokens, into documents of their own, and w grows with the steps.
Rows keep their length, so one program is compiled, and attention skips what is cut off. "linear(32, 0.6, 32)" begins at
32 tokens, sees whole documents after 60% of the steps of the stage, and takes multiples of 32 on the way. What differs
from the published code: cuts are counted from the start of a document instead of a row, steps are counted instead of
the samples of one loader, and `cos` ends at the whole length instead of passing it half way.
To add a form: a function and a line in FORMS.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from longctx.errors import UserError
from longctx.parsing import parse_call

if TYPE_CHECKING:
    from longctx.data.curriculum import Stage

NONE = "none"


def linear(way: float, steps: int, ratio: float) -> float:
    """Growth by the same tokens at every step."""
    return way


def sin(way: float, steps: int, ratio: float) -> float:
    """Growth along a quarter of a sine, fast at first."""
    return math.sin(math.pi * way / 2)


def cos(way: float, steps: int, ratio: float) -> float:
    """Growth along half a cosine, slow at both ends."""
    return (1 - math.cos(math.pi * way)) / 2


def exp(way: float, steps: int, ratio: float) -> float:
    """Growth by the same factor at every step."""
    return (ratio**way - 1) / (ratio - 1) if ratio > 1 else way


def log(way: float, steps: int, ratio: float) -> float:
    """Growth by the same factor whenever the steps have grown by one."""
    return exp(math.log1p(way * steps) / math.log1p(steps), steps, ratio)


# (share of the way, steps of all of it, length of a row / first window) -> how far the window has grown, from 0 to 1
FORMS: dict[str, Callable[[float, int, float], float]] = {
    "linear": linear,
    "sin": sin,
    "cos": cos,
    "exp": exp,
    "log": log,
}


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of `start` tokens, which is as long as a row after `share` of the steps, in multiples of `multiple`."""

    form: str
    start: int
    share: float
    multiple: int = 1

    def at(self, step: int, steps: int, length: int) -> int:
        """Tokens of the window at a step of a stage, counted from 0; `length` where documents are whole."""
        way = max(1, round(self.share * steps))
        if step >= way:
            return length
        grown = FORMS[self.form](step / way, way, length / self.start)
        tokens = int(self.start + (length - self.start) * grown)
        return min(length, max(self.start, tokens // self.multiple * self.multiple))


def parse(text: str, field: str = "window") -> Window | None:
    """The window that a setting names, None for "none". Raises UserError for what is none."""
    if text == NONE:
        return None
    known = {name: functools.partial(_made, name) for name in FORMS}
    made, numbers = parse_call(field, text, known)
    window = made(*numbers)
    if window.share > 1:
        raise UserError(f"{field}={text!r}: {window.share} is a share of the steps, above 0 and at most 1.")
    return window


def _made(form: str, start: int, share: float, multiple: int = 1) -> Window:
    return Window(form, start, share, multiple)


def check(stages: "Sequence[Stage]") -> None:
    """Raises UserError for a window that is none, or that begins longer than the rows of its stage."""
    for stage in stages:
        field = f"stages[{stage.index}].window"
        window = parse(stage.window, field)
        if window and window.start > stage.seq_len:
            raise UserError(
                f"{field}={stage.window!r} begins with {window.start} tokens, and stages[{stage.index}].seq_len="
                f"{stage.seq_len}; begin with fewer."
            )


def table(stage: "Stage") -> np.ndarray:
    """int64 [steps]: tokens of the window at each step of a stage."""
    window = parse(stage.window)
    if window is None:
        return np.full(stage.steps, stage.seq_len)
    return np.array([window.at(step, stage.steps, stage.seq_len) for step in range(stage.steps)])


def cut(batch: dict[str, np.ndarray], tokens: int) -> dict[str, np.ndarray]:
    """The batch, its documents cut every so many tokens: other segments and positions, all else the same."""
    positions = batch["positions"] % tokens
    filled = batch["segments"] > 0
    segments = np.cumsum(filled & (positions == 0), axis=1, dtype=np.int32) * filled
    return batch | {"positions": positions, "segments": segments}
