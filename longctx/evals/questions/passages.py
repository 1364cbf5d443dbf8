"""Sentences with counts in passages, whose ids are asked for along with the counts."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Query, Sample

LOW, HIGH = 100, 1000  # counts are from LOW to HIGH - 1: too many to name all
LENGTH = 4  # sentences of a passage
STARS = "That night the watchman on the hill counted {} stars."


@dataclasses.dataclass(frozen=True)
class CountingStars:
    """All counts of stars are asked for, each with the id of its passage.

    The ids are words, not numbers in order: they are the same however many passages there are.

    Attributes:
      stars: passages that tell a count.
    """

    stars: int = 8
    smallest: int = 1
    source: str = (
        "Counting-Stars (arXiv 2403.11802) with citations, as in L-CiteEval (arXiv 2410.02115), with ids that are "
        "words, and the mean of both F1 in place of two scores"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if not 1 <= self.stars <= HIGH - LOW:
            raise ValueError(f"{self.stars} different counts are not from 1 to {HIGH - LOW}.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"{self.stars} counts in passages of prose, and the ids of their passages"

    @property
    def budget(self) -> int:
        """See Questions: a count and an id by letters, with some room."""
        return 16 * self.stars

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: passages without a count."""
        ids = words.coined(rng)
        counts = (LOW + rng.permutation(HIGH - LOW)[: self.stars]).tolist()
        cited, places = words.take(ids, self.stars), rng.integers(0, LENGTH, self.stars).tolist()
        query = Query(
            "\nWhich counts of stars are told of? List them all, each with the id of its passage, as: count [id].",
            " The counts are:",
            tuple(f"{count} [{of}]" for count, of in zip(counts, cited, strict=True)),
        )
        hay = np.random.default_rng(rng.integers(1 << 62))
        texts = [words.prose(hay, LENGTH) for _ in range(self.stars + size)]
        for text, count, place in zip(texts, counts, places, strict=False):
            text[place] = STARS.format(count)
        names = [*cited, *words.take(ids, size)]
        passages = [f"[{name}] {' '.join(text)}" for name, text in zip(names, texts, strict=True)]
        intro = (
            "Each line below is a passage, after its id in brackets. Some passages say how many stars were counted.\n"
        )
        return Sample(intro + "\n".join(words.permuted(hay, passages)), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        told = re.findall(r"^\[(\w+)\].* counted (\d+) stars", prompt, re.MULTILINE)
        return ", ".join(f"{count} [{name}]" for name, count in told)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the mean of the F1 of the counts and the F1 of the ids."""
        gold = _named(" ".join(query.gold))
        return sum(map(scores.set_f1, _named(answer), gold)) / 2

    def chance(self, query: Query) -> float:
        """See Questions: that of all counts there can be and no id. F1 grows with how many of equal odds are named."""
        return self.stars / (HIGH - LOW + self.stars)


def _named(answer: str) -> tuple[set[str], set[str]]:
    """(counts, ids) in an answer: what is in brackets is an id."""
    ids = re.findall(r"\[\s*(\w+)\s*\]", answer.lower())
    return set(re.findall(r"(?<![\w\[])\d+(?![\w\]])", answer)), set(ids)
