"""Facts among background prose: what persons do with objects in rooms, and where rooms lie."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from longctx.evals.questions import words
from longctx.evals.questions.question import Guessed, Query, Sample

TASK = "A few facts are scattered over the text below. They come in the order in which they happened.\n"
GIVERS = ("Bill", "Fred", "Jeff", "Mary")
DIRECTIONS = {"north": "south", "south": "north", "east": "west", "west": "east"}
STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
PHRASES = {
    "move": ("walked to", "hurried to", "strolled to", "headed to"),
    "take": ("picked up", "took along", "grabbed"),
    "drop": ("put down", "set down", "let go of"),
    "give": ("gave", "handed", "passed"),
}
_VERBS = {phrase: verb for verb, phrases in PHRASES.items() for phrase in phrases}
_DEED = re.compile(rf"\b(\w+) ({'|'.join(_VERBS)}) the (\w+)(?: to (\w+))?\.")
_LIES = re.compile(rf"The (\w+) is just ({'|'.join(DIRECTIONS)}) of the (\w+)\.")
_WORD = re.compile(r"\w+")


class Fact(NamedTuple):
    """Who did what (verb: a key of PHRASES) with which object or room; or which room lies where (a direction)."""

    who: str
    verb: str
    what: str
    whom: str = ""


class World:
    """The state that facts lead to.

    Attributes:
      room: of each person who has moved.
      holder: of each object that is held.
      trails: the rooms that each object is known to have been in, in order, without repetition of one after itself.
      gifts: the facts of giving, in order.
      beside: {(direction, room): the room that lies just there}.
    """

    def __init__(self, facts: Sequence[Fact] = ()):
        self.room: dict[str, str] = {}
        self.holder: dict[str, str] = {}
        self.trails: dict[str, list[str]] = {}
        self.gifts: list[Fact] = []
        self.beside: dict[tuple[str, str], str] = {}
        for fact in facts:
            self.tell(fact)

    def tell(self, fact: Fact):
        """Lets a fact happen."""
        who, verb, what, whom = fact
        if verb == "move":
            self.room[who] = what
            for thing in [thing for thing, holder in self.holder.items() if holder == who]:
                self._arrive(thing, what)
        elif verb == "take":
            self.holder[what] = who
            self._arrive(what, self.room[who])
        elif verb == "drop":
            del self.holder[what]
        elif verb == "give":
            self.holder[what] = whom
            self.gifts.append(fact)
        else:
            self.beside[verb, what] = who
            self.beside[DIRECTIONS[verb], who] = what

    def _arrive(self, thing: str, room: str):
        trail = self.trails.setdefault(thing, [])
        if trail[-1:] != [room]:
            trail.append(room)

    def before(self, thing: str, room: str) -> str:
        """The room from which an object last came to a room."""
        trail = self.trails[thing]
        return trail[max(i for i, each in enumerate(trail) if each == room) - 1]

    def gift(self, who: str = "", what: str = "", whom: str = "") -> Fact:
        """The last gift by, of and to those that are named."""
        same = lambda asked, told: asked in ("", told)
        return next(g for g in reversed(self.gifts) if same(who, g.who) and same(what, g.what) and same(whom, g.whom))


class Form(NamedTuple):
    """A way to ask. answers: what is asked for, an attribute of the task; find: the answer from a world and names."""

    question: str
    prefix: str
    answers: str
    find: Callable[..., str]

    def read(self, question: str) -> tuple[str, ...] | None:
        """The names in a question; None where it is asked in another way."""
        found = re.fullmatch(re.escape(self.question).replace(r"\{\}", r"(\w+)"), question.strip())
        return found.groups() if found else None


WHO, WHAT = " It was", " It was the"
FORMS = {
    "qa1": (Form("In which room is {} now?", " It is the", "rooms", lambda world, who: world.room[who]),),
    "qa2": (Form("In which room is the {} now?", " It is the", "rooms", lambda world, what: world.trails[what][-1]),),
    "qa3": (Form("In which room was the {} just before it last came to the {}?", WHAT, "rooms", World.before),),
    "qa4": (
        Form(
            "Which room is just {} of the {}?", " It is the", "rooms", lambda world, way, room: world.beside[way, room]
        ),
        Form(
            "Of which room is the {} just {}?",
            " It is the",
            "rooms",
            lambda world, room, way: world.beside[DIRECTIONS[way], room],
        ),
    ),
    "qa5": (
        Form("Who last gave the {} to {}?", WHO, "persons", lambda world, o, q: world.gift(what=o, whom=q).who),
        Form("To whom did {} last give the {}?", WHO, "persons", lambda world, p, o: world.gift(who=p, what=o).whom),
        Form("What did {} last give to {}?", WHAT, "objects", lambda world, p, q: world.gift(who=p, whom=q).what),
        Form("Who last gave the {} away?", WHO, "persons", lambda world, o: world.gift(what=o).who),
        Form("Who was last given the {}?", WHO, "persons", lambda world, o: world.gift(what=o).whom),
    ),
}


@dataclasses.dataclass(frozen=True)
class Babilong(Guessed):
    """A story's facts are asked for: qa1 the room of a person, qa2 of an object, qa3 that before another room,
    qa4 where rooms lie, qa5 who gave what to whom.

    Attributes:
      kind: "qa1" to "qa5".
      facts: how many there are, or a few more until there is something to ask; below the number of rooms for qa4.
      persons, objects, rooms: their names, one word each.
    """

    kind: str = "qa1"
    facts: int = 10
    persons: tuple[str, ...] = ("Mary", "John", "Daniel", "Sandra")
    objects: tuple[str, ...] = ("apple", "football", "milk")
    rooms: tuple[str, ...] = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
    budget: int = 16
    smallest: int = 8
    source: str = (
        "BABILong (arXiv 2406.10149) of bAbI (arXiv 1502.05698), with its names and score, and our own simulator, "
        "sentences, questions and prose, in which no room is named"
    )
    diffusion: str = "high"

    def __post_init__(self):
        if self.kind not in FORMS or self.facts < 1 or (self.kind == "qa4" and self.facts >= len(self.rooms)):
            raise ValueError(f"{self} is of an unknown kind, or has no facts, or more than its rooms allow.")
        if min(len(self.persons), len(self.rooms), len(self.objects) + 1) < 2:
            raise ValueError(f"{self} needs two persons, two rooms and an object.")

    @property
    def what(self) -> str:
        """See Questions."""
        asked = dict(
            qa1="the room of a person",
            qa2="the room of an object",
            qa3="the room of an object before another",
            qa4="how rooms lie",
            qa5="who gave what to whom",
        )
        return f"{asked[self.kind]}, from {self.facts} facts in prose"

    @property
    def scope(self) -> str:
        """See Questions."""
        return "low" if self.kind in ("qa1", "qa4", "qa5") else "high"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: sentences of background."""
        facts = self._lie(rng) if self.kind == "qa4" else self._live(rng)
        form, names = self._asked(rng, facts)
        gold = form.find(World(facts), *names)
        others = [label for label in getattr(self, form.answers) if label not in (gold, *names)]
        depths = np.sort(rng.random(len(facts)))
        told = [_sentence(rng, fact) for fact in facts]
        lines = self._background(np.random.default_rng(rng.integers(1 << 62)), size)
        where = max(i for i, fact in enumerate(facts) if fact.who == names[0]) if self.kind == "qa1" else None
        query = Query(
            "\n" + form.question.format(*names),
            form.prefix,
            (gold,),
            (gold, *others),
            None if where is None else float(depths[where]),
        )
        return Sample(TASK + " ".join(words.placed(lines, zip(depths, told, strict=True))), (query,))

    def _background(self, rng: np.random.Generator, count: int) -> list[str]:
        """Sentences without a label, the first of a larger count the same."""
        label = re.compile(rf"\b({'|'.join(self._labels())})\b", re.IGNORECASE)
        return words.take(
            (line for _ in itertools.count() for line in words.prose(rng, 64) if not label.search(line)), count
        )

    def _lie(self, rng: np.random.Generator) -> list[Fact]:
        """Facts of rooms on a grid, each beside one that was placed before."""
        rooms = [self.rooms[i] for i in rng.permutation(len(self.rooms))]
        cells, facts = {(0, 0): rooms[0]}, []
        for room in rooms[1 : self.facts + 1]:
            free = [
                (cell, way, old)
                for (x, y), old in cells.items()
                for way, (dx, dy) in STEPS.items()
                if (cell := (x + dx, y + dy)) not in cells
            ]
            cell, way, old = free[rng.integers(len(free))]
            cells[cell] = room
            facts.append(Fact(room, way, old) if rng.random() < 0.5 else Fact(old, DIRECTIONS[way], room))
        return [facts[i] for i in rng.permutation(len(facts))]

    def _live(self, rng: np.random.Generator) -> list[Fact]:
        """Facts of persons, until there is something to ask."""
        world, facts = World(), []
        while len(facts) < self.facts or not self._askable(world):
            who = _pick(rng, self.persons)
            deeds = [] if self.kind == "qa1" or who not in world.room else self._deeds(world, who)
            fact = _pick(rng, deeds) if deeds and rng.random() < 0.5 else self._move(rng, world, who)
            facts.append(fact)
            world.tell(fact)
        return facts

    def _deeds(self, world: World, who: str) -> list[Fact]:
        here = world.room[who]
        held = [thing for thing in self.objects if world.holder.get(thing) == who]
        near = [whom for whom in self.persons if whom != who and world.room.get(whom) == here]
        if self.kind == "qa5" and held and near:
            return [Fact(who, "give", thing, whom) for thing in held for whom in near]
        free = [thing for thing in self.objects if thing not in world.holder]
        return [Fact(who, "take", thing) for thing in free if world.trails.get(thing, [here])[-1] == here] + [
            Fact(who, "drop", thing) for thing in held
        ]

    def _move(self, rng: np.random.Generator, world: World, who: str) -> Fact:
        """A move to another room; in qa5 to one where somebody is, if there is one, so that gifts are many."""
        here, rooms = world.room.get(who), []
        if self.kind == "qa5":
            rooms = [room for room in self.rooms if room != here and room in world.room.values()]
        return Fact(who, "move", _pick(rng, rooms or [room for room in self.rooms if room != here]))

    def _askable(self, world: World) -> Sequence:
        askable: dict[str, Callable[[], Sequence]] = dict(
            qa1=lambda: list(world.room),
            qa2=lambda: list(world.trails),
            qa3=lambda: [(thing, room) for thing, trail in world.trails.items() for room in trail[1:]],
            qa5=lambda: world.gifts,
        )
        return askable[self.kind]()

    def _asked(self, rng: np.random.Generator, facts: list[Fact]) -> tuple[Form, tuple[str, ...]]:
        """A form of the kind and the names that it asks about."""
        which = int(rng.integers(len(FORMS[self.kind])))
        form = FORMS[self.kind][which]
        if self.kind == "qa4":
            one, way, other, _ = _pick(rng, facts)
            if rng.random() < 0.5:
                one, way, other = other, DIRECTIONS[way], one
            return form, (way, other) if which == 0 else (one, way)
        chosen = _pick(rng, self._askable(World(facts)))
        if self.kind == "qa5":
            giver, _, thing, whom = chosen
            return form, ((thing, whom), (giver, thing), (giver, whom), (thing,), (thing,))[which]
        return form, chosen if self.kind == "qa3" else (chosen,)

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, rest = prompt.rpartition("\n")
        found = (_LIES if self.kind == "qa4" else _DEED).findall(context)
        world = World([Fact(who, _VERBS[verb] if verb in _VERBS else verb, *names) for who, verb, *names in found])
        question = rest[: rest.index("?") + 1]
        form, names = next((form, names) for form in FORMS[self.kind] if (names := form.read(question)))
        return form.find(world, *names)

    def _labels(self) -> tuple[str, ...]:
        return self.persons + self.objects if self.kind == "qa5" else self.rooms

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the gold is the only label in the first sentence, those of the question aside."""
        first = re.split(r"[.!?\n]", answer.strip(), maxsplit=1)[0]
        said = {word.lower() for word in _WORD.findall(first)} - {w.lower() for w in _WORD.findall(query.question)}
        return float(said & {label.lower() for label in self._labels()} == {query.gold[0].lower()})


def _pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


def _sentence(rng: np.random.Generator, fact: Fact) -> str:
    if fact.verb in DIRECTIONS:
        return f"The {fact.who} is just {fact.verb} of the {fact.what}."
    to = f" to {fact.whom}" if fact.whom else ""
    return f"{fact.who} {_pick(rng, PHRASES[fact.verb])} the {fact.what}{to}."
