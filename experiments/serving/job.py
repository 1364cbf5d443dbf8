"""One prompt to be continued: what is asked for, and its text as tokens come. Free of jax."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.serving.protocol import Refusal, Told
from longctx.data.tokenizers import Tokenizer
from longctx.generation.request import Sampling
from longctx.generation.text import Pieces, Until


class Wish(NamedTuple):
    """What is asked for one prompt.

    Attributes:
      prompt: token ids, int32, one at least.
      most: the most new tokens; 0 reads the prompt alone.
      seed, index: of what is drawn, see generation.rows.Draw.
      stops: texts that end the answer.
      told: whether log-probabilities of new tokens are told; scored: those of the prompt's.
    """

    prompt: np.ndarray
    most: int
    sampling: Sampling = Sampling()
    seed: int = 0
    index: int = 0
    stops: tuple[str, ...] = ()
    told: bool = False
    scored: bool = False


class Read(NamedTuple):
    """An event: the prompt was read. scores: arrays as generation.rows.Scores, of its tokens from the second on; or
    None."""

    scores: tuple | None


class Piece(NamedTuple):
    """An event: more of the answer. told: its tokens, offsets being those in the answer; reason: why it ended, "stop"
    or "length", or None where more may follow."""

    text: str
    told: tuple[Told, ...]
    reason: str | None


class Job:
    """A wish on its way.

    Attributes:
      deliver: is called with each event: one Read, then Pieces; a Refusal ends it early.
      deadline: of time.monotonic().
      kept: tokens of the prompt that were not read again. step: new tokens so far.
      over: whether nothing more is delivered.
    """

    def __init__(self, wish: Wish, deliver: Callable, seconds: float, tokenizer: Tokenizer, ends: Sequence[int]):
        self.wish, self.deliver, self.deadline = wish, deliver, time.monotonic() + seconds
        self.kept = self.step = 0
        self.over = False
        self._ends = ends
        self._pieces, self._until = Pieces(tokenizer, wish.prompt.tolist()), Until(wish.stops)
        self._written, self._given, self._waiting = 0, 0, []  # letters that are known, and given; tokens not told yet

    def take(self, token: int, scores: Callable[[], tuple[float, tuple]]) -> bool:
        """Delivers what one more token makes certain; whether it was the last.

        scores: -> its log-probability, and (id, log-probability) of the likeliest in its place.
        """
        self.step += 1
        if self.wish.told:
            self._waiting.append(Told(token, self._written, *scores()))
        ended = token in self._ends
        text = self._more("" if ended else self._pieces.add(token))
        reason = "stop" if ended or self._until.over else "length" if self.step >= self.wish.most else None
        if reason and not self._until.over:
            text += self._more(self._pieces.end())
            reason = "stop" if self._until.over else reason
            text += self._until.end()
        self._given += len(text)
        told = self._told(reason is not None and not self._until.over)
        if text or told or reason:
            self.deliver(Piece(text, told, reason))
        self.over = reason is not None
        return self.over

    def end_reading(self, scores: tuple | None) -> bool:
        """Delivers that the prompt was read; whether no token is asked for."""
        self.deliver(Read(scores))
        if self.wish.most == 0:
            self.deliver(Piece("", (), "length"))
            self.over = True
        return self.over

    def fail(self, refusal: Refusal) -> None:
        """Delivers an error, unless all was said."""
        if not self.over:
            self.over = True
            self.deliver(refusal)

    def _more(self, piece: str) -> str:
        self._written += len(piece)
        return self._until.add(piece)

    def _told(self, everything: bool) -> tuple[Told, ...]:
        """The tokens whose text begins in what was given, of those that were not told before."""
        count = len(self._waiting)
        if not everything:
            count = next((i for i, told in enumerate(self._waiting) if told.offset >= self._given), count)
        told, self._waiting = self._waiting[:count], self._waiting[count:]
        return tuple(told)
