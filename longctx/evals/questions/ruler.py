"""RULER's tasks besides needles (arXiv 2404.06654): chains of variables, common words, frequent words."""

import dataclasses
import itertools
import math
import re
from collections import Counter

import numpy as np

from longctx.data.generated.passkey import GRASS
from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Guessed, Query, Sample

DIFFERS = "with our own instructions and no worked example before the task"


@dataclasses.dataclass(frozen=True)
class VariableTracking(Guessed):
    """Variables that hold a value, be it by other variables, are asked for.

    Attributes:
      chains: of assignments, each of a value of its own; the first is asked for.
      hops: assignments of a chain from a variable to the next.
    """

    chains: int = 1
    hops: int = 4
    smallest: int = 5
    source: str = f"RULER's vt (arXiv 2404.06654), {DIFFERS}; names never collide"
    scope: str = "low"
    diffusion: str = "high"

    def __post_init__(self):
        if self.chains < 1 or self.hops < 1:
            raise ValueError(f"{self} has no chain to follow.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"all variables of 1 of {self.chains} chains of {self.hops} hops, hidden in noise"

    @property
    def budget(self) -> int:
        """See Questions: a name and a comma by letters, with some room."""
        return 8 * (self.hops + 1)

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: lines of noise."""
        codes, values = words.codes(rng, 5), words.take(words.integers(rng, 5), self.chains)
        chains = [[code.upper() for code in words.take(codes, self.hops + 1)] for _ in values]
        assigned, depths = [], []
        for names, value in zip(chains, values, strict=True):
            assigned += [f"VAR {names[0]} = {value}"]
            assigned += [f"VAR {new} = VAR {old}" for old, new in itertools.pairwise(names)]
            depths += np.sort(rng.random(len(names))).tolist()
        query, *shown = [
            Query(
                f"\nWhich variables have the value {value}, at first or second hand? List all {len(names)} of them.",
                f" The variables that have the value {value} are:",
                tuple(names),
            )
            for names, value in zip(chains, values, strict=True)
        ]
        intro = "Variables get their values in some lines of the text below. Keep track of them.\n"
        text = "\n".join(words.placed([GRASS.strip()] * size, zip(depths, assigned, strict=True)))
        return Sample(intro + text, (query,), tuple(shown))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        values: dict[str, str] = {}
        for name, given in re.findall(r"^VAR (\w+) = (?:VAR )?(\w+)$", prompt, re.MULTILINE):
            values[name] = values[given] if given in values else given
        asked = re.findall(r"have the value (\d+)", prompt)[-1]
        return ", ".join(name for name, value in values.items() if value == asked)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the share of the variables that the answer holds."""
        return scores.share_held(answer, query.gold)


@dataclasses.dataclass(frozen=True)
class CommonWords(Guessed):
    """The words that a list has more often than others are asked for.

    Attributes:
      common: how many words are asked for.
      often, seldom: times that a common word and another are in the list.
    """

    common: int = 10
    often: int = 30
    seldom: int = 3
    budget: int = 120
    smallest: int = 1
    source: str = f"RULER's cwe (arXiv 2404.06654), {DIFFERS}; words are made up, and none is part of another"
    scope: str = "high"
    diffusion: str = "low"

    def __post_init__(self):
        if not self.often > self.seldom > 0 < self.common:
            raise ValueError(f"{self} has no words that are more common than others.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"{self.common} words that are {self.often} times in a list, others {self.seldom} times"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: different words that are not common."""
        stream = words.coined(rng)
        common = words.take(stream, self.common)
        hay = np.random.default_rng(rng.integers(1 << 62))
        items = words.permuted(hay, common * self.often + words.take(stream, size) * self.seldom)
        query = Query(
            f"\nWhat are the {self.common} words that are most often in the list?",
            f" The {self.common} most common words are:",
            tuple(common),
        )
        intro = "Below is a numbered list. Some of its words come more often than the others: remember them.\n"
        return Sample(intro + " ".join(f"{i}. {item}" for i, item in enumerate(items, 1)), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        counts = Counter(re.findall(r"\d+\. ([a-z]+)", prompt))
        return ", ".join(word for word, _ in counts.most_common(self.common))

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the share of the words that the answer holds."""
        return scores.share_held(answer, query.gold)


@dataclasses.dataclass(frozen=True)
class FrequentWords(Guessed):
    """The most frequent words of a text whose words are as frequent as Zipf's law says are asked for.

    The first in rank is dots, which do not count.

    Attributes:
      alpha: the word of rank k comes as often as the first divided by k ** alpha, rounded down.
      asked: words, from rank 2 on.
      vocabulary: different words, at most: the text has those that come at all.
      letters: of a word.
    """

    alpha: float = 2.0
    asked: int = 3
    vocabulary: int = 2000
    letters: int = 6
    budget: int = 50
    source: str = f"RULER's fwe (arXiv 2404.06654), {DIFFERS}; no two words that matter are equally frequent"
    scope: str = "high"
    diffusion: str = "low"

    def __post_init__(self):
        if self.alpha <= 0 or not 1 <= self.asked <= self.vocabulary - 2:
            raise ValueError(f"{self} has too few words, or words that are equally frequent.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"{self.asked} most frequent of coded words by Zipf's law of exponent {self.alpha:g}"

    @property
    def smallest(self) -> int:
        """See Questions: counts of the ranks asked for and the next are at least 1 apart before rounding."""
        last = self.asked + 1
        return math.ceil(1 / (last**-self.alpha - (last + 1) ** -self.alpha))

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: how often the dots come."""
        coded = words.codes(rng, self.letters)
        asked = words.take(coded, self.asked)
        hay = np.random.default_rng(rng.integers(1 << 62))
        ranks = np.arange(1, self.vocabulary + 1)
        counts = np.floor(size / ranks**self.alpha).astype(int)
        counts = counts[counts > 0].tolist()
        vocabulary = ["...", *asked, *words.take(coded, max(len(counts) - len(asked) - 1, 0))]
        text = [word for word, count in zip(vocabulary, counts, strict=True) for _ in range(count)]
        query = Query(
            f"\nLeave the dots aside. What are the {self.asked} words that are most often in the text?",
            f" The {self.asked} most frequent words are:",
            tuple(asked),
        )
        intro = "The text below is in code. Keep count of how often each of its words comes.\n"
        return Sample(intro + " ".join(words.permuted(hay, text)), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        text = prompt.rpartition("\n")[0].partition("\n")[2].split()
        counts = Counter(word for word in text if word != "...")
        return ", ".join(word for word, _ in counts.most_common(self.asked))

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the share of the words that the answer holds."""
        return scores.share_held(answer, query.gold)
