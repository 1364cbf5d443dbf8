"""The best of many answers to a request: one meets all that is wanted, each other misses one point."""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Guessed, Query, Sample

TASK = "Offers of rooms for a night are listed below. A guest's wishes will be compared with them.\n"
OFFER = "Offer {}: {}"
QUESTION = "\nA guest wishes: {}. Which offer meets every wish?"
PREFIX = " It is offer"


class Point(NamedTuple):
    """Something that a wish may be about.

    Attributes:
      values: what it may be, numbers from low to high.
      wish, said: how it is wished for, and told in an offer.
      bound: -1 where lower values do as well, 1 where higher ones do, 0 where only the same does.
    """

    values: tuple[str, ...]
    wish: str
    said: str
    bound: int = 0

    def meeting(self, wanted: int) -> list[bool]:
        """Whether each of the values meets the wish for value number `wanted`."""
        return [i == wanted or (i - wanted) * self.bound > 0 for i in range(len(self.values))]


_COUNTS = tuple(map(str, range(2, 10)))
_TENS = tuple(map(str, range(20, 100, 10)))
POINTS = (
    Point(("slate", "straw", "tiles", "copper", "turf", "cedar"), "a roof of {}", "The roof is made of {}."),
    Point(("red", "blue", "green", "white", "yellow", "black"), "a {} front door", "You come in by a {} front door."),
    Point(("bees", "goats", "geese", "ponies", "cats", "sheep"), "hosts who keep {}", "The hosts keep {}."),
    Point(
        ("porridge", "pancakes", "eggs", "fruit", "cheese", "fish"), "{} for breakfast", "For breakfast we serve {}."
    ),
    Point(
        ("the harbour", "the abbey", "the mill", "the forest", "the lake"),
        "a view of {}",
        "From the window you see {}.",
    ),
    Point(("a piano", "a loom", "a telescope", "a harp", "an easel"), "the use of {}", "Guests may use {}."),
    Point(_COUNTS, "at least {} beds", "There are {} beds.", 1),
    Point(_TENS, "at most {} crowns to pay", "A night costs {} crowns.", -1),
    Point(_TENS, "at most {} steps of stairs", "The stairs have {} steps.", -1),
    Point(_COUNTS, "at least {} windows", "The room has {} windows.", 1),
)


@dataclasses.dataclass(frozen=True)
class BestAnswer(Guessed):
    """The offer that meets all wishes is asked for by its name.

    Attributes:
      wishes: how many; every other offer misses exactly one.
    """

    wishes: int = 5
    budget: int = 32
    smallest: int = 4
    source: str = (
        "Ada-LEval's BestAnswer (arXiv 2404.06480), with offers and wishes that are generated in place of questions "
        "and answers from Stack Overflow"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if not 1 <= self.wishes <= len(POINTS):
            raise ValueError(f"{self.wishes} wishes are not 1 to {len(POINTS)}.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"the one answer that meets {self.wishes} wishes"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: offers that miss one wish, besides the seven that are candidates."""
        wishes = {  # of numbers, neither the least nor the most, so that some meet a wish and some miss it
            int(i): int(rng.integers(1, len(POINTS[i].values) - 1)) for i in rng.permutation(len(POINTS))[: self.wishes]
        }
        keys = words.keys(rng)
        names, depths = words.take(keys, CHOICES), rng.random(CHOICES).tolist()
        choices, points = _choices(wishes), list(wishes)
        miss = lambda rng, name: _offer(rng, name, choices, missed=points[rng.integers(len(points))])
        offers = [_offer(rng, names[0], choices), *(miss(rng, name) for name in names[1:])]
        hay = np.random.default_rng(rng.integers(1 << 62))
        lines = [miss(hay, name) for name in words.take(keys, size)]
        asked = "; ".join(POINTS[i].wish.format(POINTS[i].values[wanted]) for i, wanted in wishes.items())
        query = Query(QUESTION.format(asked), PREFIX, (names[0],), tuple(names), depths[0])
        return Sample(TASK + "\n".join(words.placed(lines, zip(depths, offers, strict=True))), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition(QUESTION.partition("{")[0])
        asked = question.partition(". Which")[0].split("; ")
        names = re.findall(r"^Offer (\S+): ", context, re.MULTILINE)
        lines = re.findall(r"^Offer \S+: (.*)$", context, re.MULTILINE)
        for point in POINTS:
            wished = [found[1] for text in asked if (found := re.fullmatch(point.wish.format("(.+)"), text))]
            if wished:
                meeting = point.meeting(point.values.index(wished[0]))
                said = re.compile(re.escape(point.said).replace(r"\{\}", "(.+?)"))
                meets = [meeting[point.values.index(said.findall(line)[0])] for line in lines]
                names = [name for name, met in zip(names, meets, strict=True) if met]
                lines = [line for line, met in zip(lines, meets, strict=True) if met]
        return names[0]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the answer holds the right name and no other candidate, else 0."""
        return scores.only_held(answer, query.candidates)


def _choices(wishes: dict[int, int]) -> list[tuple[list[str], list[str]]]:
    """For each point, the values that meet the wish and those that miss it. wishes: the value wanted, by point."""
    choices = []
    for i, point in enumerate(POINTS):
        meeting = point.meeting(wishes[i]) if i in wishes else [True] * len(point.values)
        split = lambda want, point=point, meeting=meeting: [
            value for value, met in zip(point.values, meeting, strict=True) if met == want
        ]
        choices.append((split(True), split(False)))
    return choices


def _offer(rng: np.random.Generator, name: str, choices: list[tuple[list[str], list[str]]], missed: int = -1) -> str:
    """An offer that meets all wishes but the one about point number `missed`."""
    told = []
    for i, draw in zip(rng.permutation(len(POINTS)).tolist(), rng.random(len(POINTS)).tolist(), strict=True):
        values = choices[i][i == missed]
        told.append(POINTS[i].said.format(values[int(draw * len(values))]))
    return OFFER.format(name, " ".join(told))
