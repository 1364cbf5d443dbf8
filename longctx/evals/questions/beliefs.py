"""Where persons believe that things are, after things were moved while some were absent."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Guessed, Query, Sample

TASK = (
    "Persons come into a hall and leave it, and move things there between closed boxes. Whoever is in the hall sees "
    "what is moved; whoever is outside learns nothing of it, and on coming back does not look into the boxes.\n"
)
COMES, LEAVES = "{} comes into the hall.", "{} leaves the hall."
MOVES = "{} puts the {} into the {} box."
BELIEF = "\nIn which box does {person} believe the {thing} to be at the end?"
TRUTH = "\nIn which box is the {thing} at the end, in truth?"
PREFIX = " In the"
BOXES = tuple(  # none an adjective of a thing
    "azure beige black blue brown coral cream cyan gold green grey indigo khaki lilac lime maroon mauve navy ochre "
    "orange pink plum purple red ruby rust tan teal turquoise violet white yellow".split()
)
_EVENT = re.compile(r"^(\w+) (?:(comes|leaves)|puts the (.+) into the (\w+) box)\b", re.MULTILINE)
_ASKED = re.compile(r"In which box (?:does (\w+) believe|is) the (.+?)(?: to be)? at the end")


@dataclasses.dataclass(frozen=True)
class Beliefs(Guessed):
    """The box in which each of some persons believes a thing to be is asked for, and the box in which it is.

    Attributes:
      persons: who are asked for; the first misses the last move.
      moves: of the thing, each to a box where it has not been; all see the first.
    """

    persons: int = 3
    moves: int = 5
    budget: int = 16
    smallest: int = 8
    source: str = (
        "LongProc's theory-of-mind tracking (arXiv 2501.05414), with generated events, where the last beliefs are "
        "asked for in place of a trace of all"
    )
    diffusion: str = "high"
    scope: str = "low"

    def __post_init__(self):
        if not (2 <= self.persons <= 12 and 2 <= self.moves <= len(BOXES)):
            raise ValueError(f"{self} is not of 2 to 12 persons and 2 to {len(BOXES)} moves.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"where {self.persons} persons believe a thing to be, after {self.moves} moves"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: events of other persons and other things."""
        names = words.permuted(rng, words.PERSONS)
        boxes = [BOXES[i] for i in rng.permutation(len(BOXES))[: self.moves]]
        things = words.keys(rng)
        thing, *others = (key.replace("-", " ") for key in words.take(things, 30))
        events, believed = _story(rng, names[: self.persons], thing, boxes)
        depths = sorted(rng.random(len(events)).tolist())
        hay = np.random.default_rng(rng.integers(1 << 62))
        lines = words.take(_others(hay, names[self.persons :], others), size)
        ask = lambda text, gold: Query(text, PREFIX, (gold,), (gold, *(box for box in boxes if box != gold)))
        queries = [ask(BELIEF.format(person=person, thing=thing), believed[person]) for person in names[: self.persons]]
        queries.append(ask(TRUTH.format(thing=thing), boxes[-1]))
        return Sample(TASK + "\n".join(words.placed(lines, zip(depths, events, strict=True))), tuple(queries))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\n")
        asked, wanted = _ASKED.findall(question)[0]
        present, last = not asked, ""
        for person, step, thing, box in _EVENT.findall(context):
            if step and person == asked:
                present = step == "comes"
            elif present and thing == wanted:
                last = box
        return last

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the answer has the right box and none of the other candidates, else 0."""
        return scores.only_held(answer, query.candidates)


def _story(rng: np.random.Generator, persons: list[str], thing: str, boxes: list[str]) -> tuple[list[str], dict]:
    """(events, the box that each person last saw the thing put into): it goes into the boxes one after the other."""
    events, present, believed = [], dict.fromkeys(persons, False), {}
    for i, box in enumerate(boxes):
        stay = np.ones(len(persons), bool) if i == 0 else rng.random(len(persons)) < 0.5
        if i == len(boxes) - 1:
            stay[0] = False
        if not stay.any():
            stay[rng.integers(1, len(persons))] = True
        for at in rng.permutation(len(persons)).tolist():
            person = persons[at]
            if stay[at] != present[person]:
                present[person] = bool(stay[at])
                events.append((COMES if stay[at] else LEAVES).format(person))
        inside = [person for person in persons if present[person]]
        events.append(MOVES.format(inside[rng.integers(len(inside))], thing, box))
        believed.update(dict.fromkeys(inside, box))
    return events, believed


def _others(rng: np.random.Generator, persons: list[str], things: list[str]) -> Iterator[str]:
    """Yields events without end: persons come and leave, those inside move things to a box where they are not."""
    inside, outside, boxes = [], list(persons), {}
    while True:
        if not inside or (outside and rng.random() < 0.3 / (1 + 0.2 * len(inside))):
            inside.append(outside.pop(rng.integers(len(outside))))
            yield COMES.format(inside[-1])
        elif rng.random() < 0.2:
            outside.append(inside.pop(rng.integers(len(inside))))
            yield LEAVES.format(outside[-1])
        else:
            thing = things[rng.integers(len(things))]
            free = [box for box in BOXES if box != boxes.get(thing)]
            boxes[thing] = free[rng.integers(len(free))]
            yield MOVES.format(inside[rng.integers(len(inside))], thing, boxes[thing])
