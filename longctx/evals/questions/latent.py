"""Facts that a question meets by association alone: it has no word of the sentence that answers it."""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Guessed, Query, Sample

TASK = "Read the text below. Some persons appear in it; a question about one of them comes after it.\n"
PREFIX = " It is"
CHARACTERS = 8


class Kind(NamedTuple):
    """How facts of a kind are told and asked for.

    Attributes:
      told: with a {person}, and a {thing} behind.
      inverted: the same with the thing before the person.
      asked: with the {meant}.
    """

    told: str
    inverted: str
    asked: str


class Fact(NamedTuple):
    """Common knowledge: a thing, and what it points to. kind: a key of KINDS."""

    kind: str
    thing: str
    meant: str


KINDS = {
    "city": Kind(
        "{person} rents rooms next door to {thing}.",
        "Next door to {thing} is where {person} rents rooms.",
        "Which person lives in {meant}?",
    ),
    "country": Kind(
        "{person} rents rooms next door to {thing}.",
        "Next door to {thing} is where {person} rents rooms.",
        "Which person lives in {meant}?",
    ),
    "part": Kind(
        "{person} made a sketch of {thing}.",
        "A sketch of {thing} was made by {person}.",
        "Which person has a picture of something that belongs to {meant}?",
    ),
    "unit": Kind(
        "{person} noted a figure in {thing}.",
        "A figure in {thing} was noted by {person}.",
        "Which person has found out {meant}?",
    ),
}
PLACES = (  # a sight, its city, its country
    ("the Eiffel Tower", "Paris", "France"),
    ("the Colosseum", "Rome", "Italy"),
    ("the Brandenburg Gate", "Berlin", "Germany"),
    ("the Kremlin", "Moscow", "Russia"),
    ("the Statue of Liberty", "New York", "America"),
    ("Big Ben", "London", "England"),
    ("the Sagrada Familia", "Barcelona", "Spain"),
    ("the Parthenon", "Athens", "Greece"),
    ("the Taj Mahal", "Agra", "India"),
    ("the Hagia Sophia", "Istanbul", "Turkey"),
    ("the Burj Khalifa", "Dubai", "the Emirates"),
    ("Copacabana beach", "Rio de Janeiro", "Brazil"),
    ("the Forbidden Palace", "Beijing", "China"),
    ("Bondi Beach", "Sydney", "Australia"),
    ("the Little Mermaid", "Copenhagen", "Denmark"),
    ("the Manneken Pis", "Brussels", "Belgium"),
    ("Charles Bridge", "Prague", "the Czech Republic"),
    ("Schoenbrunn Palace", "Vienna", "Austria"),
    ("the Rijksmuseum", "Amsterdam", "the Netherlands"),
    ("the Tower of Belem", "Lisbon", "Portugal"),
    ("the CN Tower", "Toronto", "Canada"),
    ("Table Mountain", "Cape Town", "South Africa"),
    ("the Shibuya crossing", "Tokyo", "Japan"),
    ("the Petronas Towers", "Kuala Lumpur", "Malaysia"),
    ("the Fisherman's Bastion", "Budapest", "Hungary"),
    ("Temple Bar", "Dublin", "Ireland"),
    ("the Vasa Museum", "Stockholm", "Sweden"),
    ("Wawel Castle", "Krakow", "Poland"),
    ("the Casa Rosada", "Buenos Aires", "Argentina"),
    ("the great Sphinx", "Giza", "Egypt"),
)
PARTS = (
    ("a piston", "an engine"),
    ("a pair of antlers", "a stag"),
    ("an udder", "a cow"),
    ("petals and a stem", "a flower"),
    ("gills", "a fish"),
    ("a yolk", "an egg"),
    ("a cockpit", "an aeroplane"),
    ("the hypotenuse", "a triangle"),
    ("two humps", "a camel"),
    ("tusks", "an elephant"),
    ("a wick", "a candle"),
    ("a collar and two sleeves", "a shirt"),
    ("an iris and a pupil", "an eye"),
    ("a hilt", "a sword"),
    ("a crater with lava", "a volcano"),
    ("the rook and the knight", "a chess set"),
    ("the hour hand", "a clock"),
    ("handlebars", "a bicycle"),
    ("an anchor and a mast", "a ship"),
    ("bark and twigs", "a tree"),
)
UNITS = (
    ("decibels", "how loud something is"),
    ("litres", "how much a barrel takes"),
    ("kilograms", "how heavy something is"),
    ("acres", "how large a field is"),
    ("hertz", "a frequency"),
    ("kelvin", "how hot or cold something is"),
    ("ohms", "an electrical resistance"),
    ("pascals", "a pressure"),
    ("lumens", "how bright a lamp is"),
    ("gigabytes", "how much data a disk takes"),
    ("minutes", "how long something lasts"),
    ("euros", "how expensive something is"),
    ("miles", "how far away something is"),
    ("calories", "how nourishing a meal is"),
)
FACTS = {
    "city": tuple(Fact("city", sight, city) for sight, city, _ in PLACES),
    "part": tuple(Fact("part", *pair) for pair in PARTS),
    "unit": tuple(Fact("unit", *pair) for pair in UNITS),
    "country": tuple(Fact("country", sight, country) for sight, _, country in PLACES),
}
STEPS = {1: ("city", "part", "unit"), 2: ("country",)}  # the kinds of facts of so many steps


@dataclasses.dataclass(frozen=True)
class Latent(Guessed):
    """A person is asked for by what common knowledge says of the thing that the text names with the person.

    Attributes:
      steps: from the thing to what is asked: 1 (a sight and its city, a part and its whole, a unit and its quantity)
        or 2 (a sight, its city, its country).
      inverted: the thing comes before the person.
    """

    steps: int = 1
    inverted: bool = False
    budget: int = 32
    smallest: int = 8
    source: str = (
        "NoLiMa (arXiv 2502.05167), one and two steps, both orders; with our own facts and generated prose, and eight "
        "persons, a fact of one kind each"
    )
    diffusion: str = "high"
    scope: str = "low"

    def __post_init__(self):
        if self.steps not in STEPS:
            raise ValueError(f"{self.steps} steps of association are not 1 or 2.")

    @property
    def what(self) -> str:
        """See Questions."""
        order = ", inverted" if self.inverted else ""
        return f"a person by association in {self.steps} steps{order}"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: sentences of prose, without words of what is asked."""
        known = FACTS[STEPS[self.steps][rng.integers(len(STEPS[self.steps]))]]
        facts = [known[i] for i in rng.permutation(len(known))[:CHARACTERS]]
        persons = words.permuted(rng, words.PERSONS)[:CHARACTERS]
        depths = rng.random(CHARACTERS).tolist()
        hay = np.random.default_rng(rng.integers(1 << 62))
        named = set(re.findall(r"[a-z]+", facts[0].meant)) - {"the"}
        plain = (text for text in words.sentences(hay) if named.isdisjoint(text[:-1].split()))
        told = [self.told(fact, person) for fact, person in zip(facts, persons, strict=True)]
        lines = words.placed(words.take(plain, size), zip(depths, told, strict=True))
        query = Query("\n" + asked(facts[0]), PREFIX, (persons[0],), tuple(persons), depths[0])
        return Sample(TASK + "\n".join(lines), (query,))

    def told(self, fact: Fact, person: str) -> str:
        """The sentence about a person."""
        kind = KINDS[fact.kind]
        text = (kind.inverted if self.inverted else kind.told).format(person=person, thing=fact.thing)
        return text[0].upper() + text[1:]

    def solve(self, prompt: str) -> str:
        """See Questions. Reads the table of facts besides the prompt: it stands for what everybody knows."""
        context, _, question = prompt.rpartition("\n")
        fact = next(
            one for kind in STEPS[self.steps] for one in FACTS[kind] if asked(one) == question.removesuffix(PREFIX)
        )
        before, after = map(re.escape, self.told(fact, "\n").split("\n"))
        return re.findall(f"^{before}(.+){after}$", context, re.MULTILINE)[0]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the answer has the right person and none of the others, else 0."""
        return scores.only_held(answer, query.candidates)


def asked(fact: Fact) -> str:
    """The question that a fact answers."""
    return KINDS[fact.kind].asked.format(meant=fact.meant)
