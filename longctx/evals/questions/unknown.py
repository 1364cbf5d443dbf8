"""Whether a model says so where the text does not hold the answer."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.needles import NEEDLE
from longctx.evals.questions.question import Guessed, Query, Sample

PHRASE = "not in the text"
TASK = "Numbers belong to the names in the text below. One of them will be asked for.\n"
QUESTION = f"\nWhich number does the text give for {{key}}? If it gives none, the answer is: {PHRASE}."
PREFIX = " The answer is"


@dataclasses.dataclass(frozen=True)
class Unknown(Guessed):
    """Two questions about a text: the value of a key that is in it, and of one that is not.

    Whoever always says that the text does not hold the answer, or never, is right in half of them.

    Attributes:
      keys: hidden whose values are candidates, besides the phrase.
    """

    keys: int = 7
    budget: int = 32
    smallest: int = 7
    source: str = (
        "the questions without an answer of LongBioBench (arXiv 2506.02921), over RULER's needles (arXiv 2404.06654) "
        "in place of biographies, each with a question that has one"
    )
    diffusion: str = "high"
    scope: str = "low"

    def __post_init__(self):
        if self.keys < 1:
            raise ValueError(f"{self.keys} keys are too few.")

    @property
    def what(self) -> str:
        """See Questions."""
        return "the value of a key, or that the text does not hold it"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: needles of other keys."""
        keys, depths = words.keys(rng), rng.random(self.keys).tolist()
        absent, *hidden = words.take(keys, 1 + self.keys)
        values = words.take(words.integers(rng, 7), self.keys)
        hay = np.random.default_rng(rng.integers(1 << 62))
        others = zip(words.take(keys, size), words.integers(hay, 7, values), strict=False)
        lines = [_needle(*other) for other in others]
        needles = [_needle(*own) for own in zip(hidden, values, strict=True)]
        present = Query(QUESTION.format(key=hidden[0]), PREFIX, (values[0],), (*values, PHRASE), depths[0])
        missing = Query(QUESTION.format(key=absent), PREFIX, (PHRASE,), (PHRASE, *values))
        return Sample(TASK + "\n".join(words.placed(lines, zip(depths, needles, strict=True))), (present, missing))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition(QUESTION.partition("{")[0])
        before, after = map(re.escape, _needle(question.partition("?")[0], "\n").split("\n"))
        found = re.search(rf"^{before}(\d+){after}$", context, re.MULTILINE)
        return found[1] if found else PHRASE

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the answer holds the right candidate and no other, else 0."""
        return scores.only_held(answer, query.candidates)


def _needle(key: str, value: str) -> str:
    return NEEDLE.format(values="numbers", key=key, value=value)
