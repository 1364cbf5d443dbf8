"""Questions about documents that tell made-up facts of people, one document a person."""

import dataclasses
import itertools
import re
from typing import NamedTuple

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Guessed, Query, Sample


class Attribute(NamedTuple):
    """What is told of each person: its name in questions, its values, and the sentences that tell it."""

    name: str
    values: tuple[str, ...]
    told: tuple[str, ...]


TRADES = (
    "baker barber beekeeper blacksmith bookbinder brewer butcher carpenter clockmaker cook cooper dentist driver "
    "farmer gardener glazier goldsmith hatter joiner judge lawyer librarian locksmith mason miller miner nurse painter "
    "plumber porter potter printer roofer saddler shepherd surgeon tanner teacher weaver welder"
)
INSTRUMENTS = (
    "accordion bagpipes banjo bassoon bugle cello clarinet cornet drums dulcimer fiddle flute guitar harmonica harp "
    "horn lute lyre mandolin oboe organ piano recorder saxophone sitar trombone trumpet tuba ukulele viola zither"
)
PETS = (
    "badger beetle budgie canary cat chameleon cockatoo crow dog donkey ferret finch frog gecko goat goldfish goose "
    "hamster hedgehog horse iguana lizard llama magpie mouse newt owl parrot pigeon pony rabbit raven salamander sheep "
    "snail snake spider squirrel swan toad tortoise turkey"
)
ATTRIBUTES = (
    Attribute(
        "trade",
        tuple(TRADES.split()),
        (
            "{name} earns a living as the {value} of the district.",
            "Neighbours know {name} as their {value}.",
            "For many years {name} has been the only {value} around.",
        ),
    ),
    Attribute(
        "birthplace",
        words.TOWNS,
        (
            "{name} was born in {value}.",
            "The family of {name} lived in {value} at the time of the birth.",
            "It was in {value} that {name} came into the world.",
        ),
    ),
    Attribute(
        "instrument",
        tuple(INSTRUMENTS.split()),
        (
            "In the evenings {name} practises the {value}.",
            "{name} plays the {value} well.",
            "On feast days one hears {name} on the {value}.",
        ),
    ),
    Attribute(
        "pet",
        tuple(PETS.split()),
        (
            "At home {name} keeps one {value}.",
            "{name} never travels without the old {value}, the pet of the house.",
            "Of all animals, {name} chose a certain {value} as a pet.",
        ),
    ),
)
GUIDES = (
    "{name} was once the apprentice of {value}.",
    "It was {value} who had {name} as an apprentice.",
    "As an apprentice, {name} lived in the house of {value}.",
)
TOLD = {**{attribute.name: attribute.told for attribute in ATTRIBUTES}, "guide": GUIDES}
ORDERS = tuple(itertools.permutations(range(len(TOLD))))
QUESTION = "\nWhat is the {attribute} of {who}?"
PREFIX = " The {attribute} of {who} is"
GUIDE = "the person whose apprentice was "


@dataclasses.dataclass(frozen=True)
class FactDocuments(Guessed):
    """A fact about a person is asked for, who is named or is found by others.

    The other seven candidates are told of others; where documents are chained, one of them is of the person named.

    Attributes:
      hops: documents that the answer needs: 1 of the person named, 2 of the one that the named person learnt from, ...
    """

    hops: int = 1
    budget: int = 32
    smallest: int = 1
    source: str = (
        "RULER's qa (arXiv 2404.06654), whose questions and documents are SQuAD's and HotpotQA's; here the documents "
        "are made up, so that none of it can be known beforehand"
    )
    scope: str = "low"

    def __post_init__(self):
        if not 1 <= self.hops < CHOICES:
            raise ValueError(f"{self.hops} hops are not from 1 to {CHOICES - 1}.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"a fact that takes {self.hops} of many documents about people"

    @property
    def diffusion(self) -> str:
        """See Questions."""
        return "high" if self.hops > 1 else "low"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: documents about people that have nothing to do with the question."""
        asked = int(rng.integers(len(ATTRIBUTES)))
        surnames = (word.capitalize() for word in words.coined(rng))
        of_asked = rng.permutation(len(ATTRIBUTES[asked].values))[:CHOICES]
        told = _people(rng, words.take(surnames, CHOICES), (asked, of_asked))
        names, documents = [name for name, _ in told], [text for _, text in told]
        depths = rng.random(self.hops).tolist()
        found = [ATTRIBUTES[asked].values[i] for i in np.roll(of_asked, 1 - self.hops)]
        hay = np.random.default_rng(rng.integers(1 << 62))
        more = [text for _, text in _people(hay, words.take(surnames, size))]
        rest = words.permuted(hay, documents[self.hops :] + more)
        whole = words.placed(rest, zip(depths, documents[: self.hops], strict=True))
        starts = range(0, CHOICES - self.hops + 1, self.hops)  # of people on the way to no other's answer
        query, *shown = [self._query(ATTRIBUTES[asked].name, names[i], found[i]) for i in starts]
        query = query._replace(candidates=tuple(found), depth=depths[0] if self.hops == 1 else None)
        intro = "Each of the documents below is about one person. You will be asked about one of them.\n"
        context = intro + "\n".join(f"Document {i}: {text}" for i, text in enumerate(whole, 1))
        return Sample(context, (query,), tuple(shown))

    def _query(self, attribute: str, name: str, gold: str) -> Query:
        """The question for an attribute, asked from the person of that name on."""
        said = dict(attribute=attribute, who=GUIDE * (self.hops - 1) + name)
        return Query(QUESTION.format(**said), PREFIX.format(**said), (gold,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition(QUESTION.partition("{")[0])
        attribute, who = re.findall(r"^(\w+) of (.*)\?", question)[0]
        name = who.replace(GUIDE, "")
        for _ in range(who.count(GUIDE)):
            name = _told(context, "guide", name)
        return _told(context, attribute, name)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the answer holds the fact, before any other value of the attribute."""
        values = next(attribute.values for attribute in ATTRIBUTES if query.gold[0] in attribute.values)
        return float(scores.first_named(answer, values) == query.gold[0])


def _people(
    rng: np.random.Generator, surnames: list[str], given: tuple[int, np.ndarray] | None = None
) -> list[tuple[str, str]]:
    """(name, document) of people, each the apprentice of the next.

    given: the number of an attribute and the values that each person has of it; others are random.
    """
    sizes = [len(each.values) for each in ATTRIBUTES]
    rows = words.picks(rng, len(surnames), len(words.PERSONS), *sizes, *[len(GUIDES)] * len(TOLD), len(ORDERS))
    names = [f"{words.PERSONS[row[0]]} {last}" for row, last in zip(rows, surnames, strict=True)]
    documents = []
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        chosen, forms, order = row[1 : 1 + len(sizes)], row[1 + len(sizes) : -1], ORDERS[row[-1]]
        if given:
            chosen[given[0]] = given[1][i]
        values = [each.values[k] for each, k in zip(ATTRIBUTES, chosen, strict=True)]
        values.append(names[(i + 1) % len(names)])
        sentences = [
            told[k].format(name=name, value=value) for told, k, value in zip(TOLD.values(), forms, values, strict=True)
        ]
        documents.append((name, " ".join([sentences[k] for k in order])))
    return documents


def _told(context: str, kind: str, name: str) -> str:
    """What is told of a person: an attribute, or the name of the guide."""
    value = r"(\w+ \w+)" if kind == "guide" else r"(\w+)"
    forms = (re.escape(form).replace(r"\{name\}", name).replace(r"\{value\}", value) for form in TOLD[kind])
    return next(found[1] for form in forms if (found := re.search(form, context)))
