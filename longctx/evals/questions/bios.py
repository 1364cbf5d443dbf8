"""Questions about people whose biographies are among many others."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import bios_people as people
from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Query, Sample

TASK = "The passages below are about people. Questions about them will follow.\n"
ASK = {
    "year": "In which year was {name} born?",
    "town": "In which town was {name} born?",
    "trade": "What is the trade of {name}?",
    "hobby": "What is the hobby of {name}?",
    "subject": "What did {name} study?",
}
CITE = " Add a comma and the number of the passage that says so."
SEVERAL = "Answer in order, with commas between the answers. "
FIRST = "Which of these people was born first: {names}?"
PREFIX = "\nAnswer:"
TEACHER = "the teacher of "
KINDS = ("standard", "rank", "multihop", "citation")
DIFFERS = (
    "with our own attributes, lists and texts; names are in every sentence, and passages have numbers out of order"
)


@dataclasses.dataclass(frozen=True)
class Bios:
    """Attributes are asked for.

    Attributes:
      kind: "standard", of people by name; "rank", who of several was born first; "multihop", of the teacher (of the
        teacher, ...) of a person; "citation", with the number of the passage.
      count: people asked for, people to choose from, or people on the way from the one named to the one asked for.
    """

    kind: str = "standard"
    count: int = 1
    smallest: int = 4
    diffusion: str = "high"
    scope: str = "low"

    def __post_init__(self):
        least = 2 if self.kind in ("rank", "multihop") else 1
        most = 1 if self.kind == "citation" else CHOICES
        if self.kind not in KINDS or not least <= self.count <= most:
            raise ValueError(f"{self}: {self.kind!r} is none of {KINDS}, or its count not from {least} to {most}.")

    @property
    def what(self) -> str:
        """See Questions."""
        of_whom = {
            "standard": "a person" if self.count == 1 else f"{self.count} people, one each",
            "multihop": f"the last of {self.count} people, each the teacher of the one before",
            "citation": "a person, and the passage",
        }
        asked = of_whom.get(self.kind, "")
        return f"an attribute of {asked}" if asked else f"who of {self.count} people was born first"

    @property
    def budget(self) -> int:
        """See Questions: a token for each character."""
        return 16 + 20 * (self.count if self.kind == "standard" else 1)

    @property
    def source(self) -> str:
        """See Questions."""
        name = "multi_standard" if self.kind == "standard" and self.count > 1 else self.kind
        return f"LongBioBench's {name} (arXiv 2506.02921), {DIFFERS}"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: biographies of people who are not asked for."""
        facts, depths = people.different(rng, CHOICES), rng.random(CHOICES)
        fields = [list(ASK)[i] for i in rng.integers(0, len(ASK), self.count)]
        query = self._query(fields, facts, float(depths[0]))
        starts = range(self.count, CHOICES - self.count + 1, self.count)  # of people whom the question does not need
        shown = tuple(self._query(fields, facts[i:] + facts[:i], float(depths[i])) for i in starts)
        hay = np.random.default_rng(rng.integers(1 << 62))
        more = people.others(hay, size, facts)
        lines = [people.biography(more[i]) for i in hay.permutation(size).tolist()]
        told = [(depth, people.biography(person)) for depth, person in zip(depths.tolist(), facts, strict=True)]
        return Sample(TASK + "\n".join(words.placed(lines, told)), (query,), shown)

    def _query(self, fields: list[str], facts: list[people.Person], depth: float) -> Query:
        """The question about the first of the people, each the pupil of the next."""
        field, asked = fields[0], facts[: self.count]
        if self.kind == "rank":
            names = [person["name"] for person in asked]
            first, *rest = (person["name"] for person in sorted(asked, key=lambda person: person["year"]))
            return Query("\n\n" + FIRST.format(names=" or ".join(names)), PREFIX, (first,), (first, *rest))
        if self.kind == "multihop":
            question = ASK[field].format(name=TEACHER * (self.count - 1) + facts[0]["name"])
            right, *wrong = [person[field] for person in (*facts[self.count - 1 :], *facts[: self.count - 1])]
            return Query("\n\n" + question, PREFIX, (right,), (right, *wrong), depth)
        questions = [ASK[field].format(name=person["name"]) for field, person in zip(fields, asked, strict=True)]
        if self.kind == "citation":
            pairs = [(person[field], person["passage"]) for person in facts]
            return Query("\n\n" + questions[0] + CITE, PREFIX, pairs[0], tuple(map(", ".join, pairs)), depth)
        gold = tuple(person[field] for field, person in zip(fields, asked, strict=True))
        if self.count > 1:
            return Query("\n\n" + SEVERAL + " ".join(questions), PREFIX, gold)
        return Query("\n\n" + questions[0], PREFIX, gold, tuple(person[field] for person in facts), depth)

    def solve(self, prompt: str) -> str:
        """See Questions."""
        text, _, question = prompt.rpartition("\n\n")
        known = people.read(text)
        for several in re.findall(r"born first: (.+)\?", question):
            return min(several.split(" or "), key=lambda name: int(known[name]["year"]))
        asked = []
        for field, template in ASK.items():
            pattern = re.escape(template).replace(r"\{name\}", r"([^?]+)")
            asked += [(found.start(), field, found[1]) for found in re.finditer(pattern, question)]
        answers = []
        for _, field, whom in sorted(asked):
            person = known[whom.rpartition(TEACHER)[2]]
            for _ in range(whom.count(TEACHER)):
                person = known[person["teacher"]]
            answers += [person[field], person["passage"]] if CITE in question else [person[field]]
        return ", ".join(answers)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first values that the answer names are right, all of them, and in order.

        Value and passage count half each.
        """
        if self.kind == "rank":
            return scores.named_in_order(answer, query.gold, query.candidates)
        values = query.gold[:1] if self.kind == "citation" else query.gold
        known = [value for field in map(_field, values) for value in people.VALUES[field]]
        right = scores.named_in_order(answer, values, known)
        if self.kind != "citation":
            return right
        passages = re.findall(r"(?<!\d)\d{6}(?!\d)", answer)
        return (right + (passages[:1] == [query.gold[1]])) / 2

    def chance(self, query: Query) -> float:
        """See Questions: where there are no candidates, all values right by chance, each from its list."""
        if query.candidates:
            return 1 / len(query.candidates)
        chance, left = 1.0, {field: len(values) for field, values in people.VALUES.items()}
        for field in map(_field, query.gold):  # people share no value
            chance /= left[field]
            left[field] -= 1
        return chance


def _field(value: str) -> str:
    return next(field for field, values in people.VALUES.items() if value in values)
