"""Needles in a haystack: values hidden under keys in text that says nothing, or among needles that nobody asks for."""

import dataclasses
import itertools
import re
from collections.abc import Iterator

import numpy as np

from longctx.data.generated.passkey import GRASS
from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Guessed, Query, Sample

TASK = "Some special magic {values} are hidden in the text below. Remember them: you will be asked for them.\n"
NEEDLE = "One of the special magic {values} for {key} is: {value}."
QUESTION = "\nWhat are the special magic {values} for {keys} in the text?"
PREFIX = " The special magic {values} for {keys} are:"
_FOUND = re.compile(r"One of the special magic \w+ for (\S+) is: (\S+)\.")
HAYSTACKS = ("noise", "prose", "needles")


@dataclasses.dataclass(frozen=True)
class Needles(Guessed):
    """Values are asked for by key.

    Attributes:
      keys: how many are hidden; those not asked for mislead.
      values: of each key.
      asked: how many keys are asked for, in one question.
      by: what keys are, "words" or "uuids".
      of: what values are, "numbers" (7 digits) or "uuids".
      haystack: "noise" (one text again and again), "prose" (generated sentences), or "needles" (of other keys).
    """

    keys: int = 1
    values: int = 1
    asked: int = 1
    by: str = "words"
    of: str = "numbers"
    haystack: str = "prose"
    budget: int = 128
    smallest: int = CHOICES - 1
    source: str = (
        "RULER's niah (arXiv 2404.06654), with our own instructions, words and prose, and no key that comes twice"
    )
    scope: str = "low"

    def __post_init__(self):
        if not 1 <= self.asked <= self.keys or self.values < 1 or self.haystack not in HAYSTACKS:
            raise ValueError(f"{self} asks for more keys than are hidden, or is of an unknown haystack.")

    @property
    def what(self) -> str:
        """See Questions."""
        hidden = f"{self.keys} keys of {self.values} {self.of}"
        return f"{self.asked} of {hidden} by {self.by}, hidden in {self.haystack}"

    @property
    def diffusion(self) -> str:
        """See Questions."""
        return "high" if self.haystack == "needles" or self.keys > 1 else "low"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: sentences of the haystack."""
        keys, values = _stream(self.by, rng), _stream(self.of, rng)
        hidden = {key: words.take(values, self.values) for key in words.take(keys, self.keys)}
        depths = rng.random((self.keys, self.values))
        asked, left = list(hidden)[: self.asked], list(hidden)[self.asked :]
        others = words.take(values, CHOICES - 1)
        shown = [self._query([key], hidden[key]) for key in left]
        hay = np.random.default_rng(rng.integers(1 << 62))
        if self.haystack == "needles":  # the first of them have the other values, so that candidates are in the text
            pairs = zip(_stream(self.by, hay, list(hidden)), itertools.chain(others, values), strict=False)
            told = list(itertools.islice(pairs, size))
            lines = words.permuted(hay, [self._needle(*pair) for pair in told])
            shown += [self._query([key], [value]) for key, value in told[: len(others)]]
        else:
            lines = [GRASS.strip()] * size if self.haystack == "noise" else words.prose(hay, size)
        needles = [self._needle(key, value) for key, own in hidden.items() for value in own]
        query = self._query(asked, [value for key in asked for value in hidden[key]])
        if len(query.gold) == 1:
            query = query._replace(candidates=(*query.gold, *others), depth=float(depths[0, 0]))
        text = "\n".join(words.placed(lines, zip(depths.ravel().tolist(), needles, strict=True)))
        return Sample(TASK.format(values=self.of) + text, (query,), tuple(shown))

    def _query(self, keys: list[str], gold: list[str]) -> Query:
        """The question for all values of some keys."""
        said = dict(values=self.of, keys=words.listed(keys))
        return Query(QUESTION.format(**said), PREFIX.format(**said), tuple(gold))

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(values=self.of, key=key, value=value)

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition(QUESTION.partition("{")[0])
        asked = re.findall(r"for (.*) in the text\?", question)[0].replace(" and ", ", ").split(", ")
        found: dict[str, list[str]] = {}
        for key, value in _FOUND.findall(context):
            found.setdefault(key, []).append(value)
        return ", ".join(value for key in asked for value in found[key])

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the share of the values that the answer holds."""
        return scores.share_held(answer, query.gold)


def _stream(kind: str, rng: np.random.Generator, without=()) -> Iterator[str]:
    streams = {
        "words": lambda: words.keys(rng, without),
        "numbers": lambda: words.integers(rng, 7, without),
        "uuids": lambda: words.uuids(rng),
    }
    return streams[kind]()
