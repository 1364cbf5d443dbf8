"""Procedures that are carried out step by step: a journey from city to city."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator

import numpy as np

from longctx.evals.questions import words
from longctx.evals.questions.question import Query, Sample

TASK = "Exactly one connection leaves each city below.\n"
LINE = "From {} one can go on to {} by {}."
QUESTION = (
    "\nHow does one travel from {} to {}? List every step of the journey, each on a line of its own, such as "
    '"Here to There by train", and stop at {}.'
)
PREFIX = " The journey is:"
VEHICLES = ("bus", "train", "plane", "ferry")
STARTS = "Bal Cor Dun El Fen Gar Hol Ith Jor Kel Lum Mar Nor Or Pel Quin Ros Sil Tor Ul Ven Wes Yar Zan".split()
MIDDLES = "ab ad ag al am an ap ar at eb ed eg el em en ep er et ib id ig il im in ip ir it ob od og ol om on".split()
ENDS = "by den dor fax field ford gate ham holm land mere mond mouth nia port ria stad stead ton vale vik wick".split()
_LINE = re.compile(r"From (\w+) one can go on to (\w+) by (\w+)\.")
_ASKED = re.compile(r"How does one travel from (\w+) to (\w+)\?")
_STEP = re.compile(rf"\b(\w+) to (\w+) by ({'|'.join(VEHICLES)})\b")


@dataclasses.dataclass(frozen=True)
class PathTraversal:
    """All steps of a journey are asked for.

    Attributes:
      steps: of the journey.
    """

    steps: int = 10
    smallest: int = 8
    source: str = (
        "LongProc's path traversal (arXiv 2501.05414), with our own cities and instructions; the steps before the "
        "first error count, and what follows the goal does not"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if self.steps < 2:
            raise ValueError(f"{self}: a journey has two steps or more.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"all {self.steps} steps of a journey"

    @property
    def budget(self) -> int:
        """See Questions: 40 bytes at most for a step."""
        return 40 * self.steps

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: connections besides those of the journey: one from the goal, the others from cities off
        the way, to any city."""
        way = words.take(cities(rng), self.steps + 1)
        by = [VEHICLES[i] for i in rng.integers(len(VEHICLES), size=self.steps)]
        hay = np.random.default_rng(rng.integers(1 << 62))
        known, lines = list(way), [LINE.format(*step) for step in zip(way, way[1:], by, strict=False)]
        others = cities(hay, way)
        for i in range(size):
            if i:
                known.append(next(others))
            here = known[-1]
            there = known[hay.integers(len(known) - 1)]
            lines.append(LINE.format(here, there, VEHICLES[hay.integers(len(VEHICLES))]))
        order = hay.permutation(len(lines))
        gold = tuple(_step(*step) for step in zip(way, way[1:], by, strict=False))
        query = Query(QUESTION.format(way[0], way[-1], way[-1]), PREFIX, gold)
        return Sample(TASK + "\n".join(lines[i] for i in order), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        here, goal = _ASKED.findall(prompt)[-1]
        following = {one: (other, by) for one, other, by in _LINE.findall(prompt)}
        steps = []
        while here != goal:
            there, by = following[here]
            steps.append(_step(here, there, by))
            here = there
        return "\n".join(steps)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the share of the steps that come before the first error."""
        said = [_step(*step) for step in _STEP.findall(answer.rpartition(PREFIX.strip())[2])]
        right = 0
        while right < min(len(said), len(query.gold)) and said[right] == query.gold[right]:
            right += 1
        return right / len(query.gold)

    def chance(self, query: Query) -> float:
        """See Questions: the second city is known to nobody."""
        return 0.0


def _step(here: str, there: str, by: str) -> str:
    return f"{here} to {there} by {by}"


def cities(rng: np.random.Generator, without: Collection[str] = ()) -> Iterator[str]:
    """Yields names of cities, each once, without end: where half are used up, with one more syllable inside."""
    for syllables in itertools.count(1):
        used, total = set(without), len(STARTS) * len(ENDS) * len(MIDDLES) ** syllables
        while len(used) < total / 2:
            for number in rng.integers(total, size=64).tolist():
                if (name := _city(number, syllables)) not in used:
                    used.add(name)
                    yield name


def _city(number: int, syllables: int) -> str:
    number, start = divmod(number, len(STARTS))
    number, end = divmod(number, len(ENDS))
    inside = [MIDDLES[number // len(MIDDLES) ** i % len(MIDDLES)] for i in range(syllables)]
    return STARTS[start] + "".join(inside) + ENDS[end]
