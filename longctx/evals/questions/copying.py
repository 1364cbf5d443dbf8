"""Text to be written again, and classes to be learnt from examples."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Guessed, Query, Sample

WORDS = words.ADJECTIVES + words.NOUNS
NOISE = words.VERBS + words.PLACES  # none of them is part of a pattern
LINE = 8  # words of a line that is not marked, and of an example
PATTERN = 4  # words of an example that tell its class


@dataclasses.dataclass(frozen=True)
class MarkedPassage:
    """A marked passage of random words is written again.

    Attributes:
      length: of the passage, in words.
    """

    length: int = 32
    smallest: int = 4
    diffusion: str = "low"
    scope: str = "low"
    source: str = "the string copying of Repeat After Me (arXiv 2402.01032), of a part of the text, in words"

    @property
    def what(self) -> str:
        """See Questions."""
        return f"a copy of {self.length} marked words among others"

    @property
    def budget(self) -> int:
        """See Questions: a token for each character of the longest words."""
        return (1 + max(map(len, WORDS))) * self.length

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: lines of words that are not marked."""
        passage, depth = [WORDS[i] for i in rng.integers(0, len(WORDS), self.length)], float(rng.random())
        drawn = np.random.default_rng(rng.integers(1 << 62)).integers(0, len(WORDS), (size, LINE)).tolist()
        lines = [" ".join(WORDS[i] for i in line) for line in drawn]
        task = "One passage of this text stands between START and END; it will have to be copied.\n"
        context = task + "\n".join(words.placed(lines, [(depth, f"START {' '.join(passage)} END")]))
        query = Query("\n\nCopy the passage between START and END.", " Passage:", tuple(passage), depth=depth)
        return Sample(context, (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        return re.findall(r"^START (.*) END$", prompt, re.MULTILINE)[0]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the share of the words that comes before the first wrong one, in the first line."""
        return scores.leading_share(re.findall(r"\w+", scores.first_line(answer).lower()), query.gold)

    def chance(self, query: Query) -> float:
        """See Questions: that words of the list score, as each in turn is right by chance."""
        return sum(float(len(WORDS)) ** -count for count in range(1, len(query.gold) + 1)) / len(query.gold)


@dataclasses.dataclass(frozen=True)
class ManyClasses(Guessed):
    """The class of an example is learnt from other examples: it is told by four words in a row, and named by another.

    Attributes:
      classes: how many there are; each has an example even at the smallest size.
      grouped: whether the examples of a class stand together, rather than anywhere.
    """

    classes: int = 50
    grouped: bool = False
    budget: int = 16
    smallest: int = 1
    diffusion: str = "high"
    scope: str = "low"

    @property
    def what(self) -> str:
        """See Questions."""
        return f"one of {self.classes} classes, by examples" + (" that stand by class" if self.grouped else "")

    @property
    def source(self) -> str:
        """See Questions."""
        order = "with the examples of a class together" if self.grouped else "with examples in random order"
        return f"many-class in-context learning as in LongICLBench (arXiv 2404.02060), of random classes, {order}"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: examples beyond one of each class."""
        labels = words.take(words.coined(rng), self.classes)
        patterns: dict[str, None] = {}
        while len(patterns) < self.classes:
            drawn = rng.integers(0, len(WORDS), (self.classes - len(patterns), PATTERN)).tolist()
            patterns |= dict.fromkeys(" ".join(WORDS[i] for i in row) for row in drawn)
        texts, asked = list(patterns), int(rng.integers(self.classes))
        question = _examples(rng, [texts[asked]])[0]
        hay = np.random.default_rng(rng.integers(1 << 62))
        more, noise = (np.random.default_rng(hay.integers(1 << 62)) for _ in range(2))
        which = [*range(self.classes), *more.integers(0, self.classes, size).tolist()]
        written = _examples(noise, [texts[i] for i in which])
        order = hay.permutation(len(which)).tolist()
        if self.grouped:
            order.sort(key=lambda i: which[i])
        lines = [f"{written[i]} => {labels[which[i]]}" for i in order]
        others = [label for i, label in enumerate(labels) if i != asked]
        query = Query(f"\n{question}", " =>", (labels[asked],), (labels[asked], *others))
        return Sample("\n".join(["Each line has a text and its class.", *lines]), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions: the class of an example with the same words but noise."""
        context, _, question = prompt.rpartition("\n")
        pattern = " ".join(word for word in question.removesuffix(" =>").split() if word not in NOISE)
        return re.findall(rf"^(?:\w+ )*{pattern} .*=> (\w+)$", context, re.MULTILINE)[0]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first class that the answer names is the right one."""
        return scores.named_in_order(answer, query.gold, query.candidates)


def _examples(rng: np.random.Generator, patterns: list[str]) -> list[str]:
    """Each pattern within noise, some of it before the pattern and the rest after."""
    noise, found = LINE - PATTERN, []
    for pattern, drawn in zip(patterns, rng.random((len(patterns), noise + 1)).tolist(), strict=True):
        around = [NOISE[int(share * len(NOISE))] for share in drawn[1:]]
        before = int(drawn[0] * (noise + 1))
        found.append(" ".join([*around[:before], pattern, *around[before:]]))
    return found
