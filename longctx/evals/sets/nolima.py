"""NoLiMa: a fact in a book that shares no words with the question, at any length."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Set, asked, by_candidates

CHARACTER = "{CHAR}"
PROMPT = (
    "A part of a book follows.\n\n{haystack}\n\nAnswer the question by what the text says and what follows from it, in "
    "as few words as you can.\nQuestion: {question}\nAnswer:"
)


class Fact(NamedTuple):
    """A fact and a question about it.

    Attributes:
      needle, question: with {CHAR} for a name of `characters`, if any.
      gold: right answers; () where the name is the answer.
      prompt: with {haystack} and {question}.
      distractor: another line of the text, "" for none.
    """

    needle: str
    question: str
    gold: tuple[str, ...]
    characters: tuple[str, ...]
    prompt: str
    distractor: str


@dataclasses.dataclass(frozen=True)
class Needles:
    """The facts of a file that are asked in one way; the text is the beginning of a book.

    Attributes: see published.Grown. books: the lines of each.
    """

    name: str
    facts: tuple[Fact, ...]
    books: Sequence[list[str]] = dataclasses.field(repr=False)
    budget: int = 192
    smallest: int = 4

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """A fact at any depth of the first `size` lines of a book, all of it where it has fewer."""
        fact = self.facts[int(rng.integers(len(self.facts)))]
        book = self.books[int(rng.integers(len(self.books)))]
        name = fact.characters[rng.integers(len(fact.characters))] if fact.characters else ""
        depth, other = rng.random(2)
        lines = book[:size]
        if fact.distractor:
            lines.insert(round(other * len(lines)), fact.distractor)
        lines.insert(round(depth * len(lines)), fact.needle.replace(CHARACTER, name))
        before, _, after = fact.prompt.partition("{haystack}")
        question = after.replace("{question}", fact.question.replace(CHARACTER, name)).rstrip(" ")
        query = asked(question, "", fact.gold or (name,), () if fact.gold else fact.characters)
        return Sample(before + "\n".join(lines), (query._replace(depth=float(depth)),))

    def score(self, answer: str, query: Query) -> float:
        """1 where the answer holds a gold, in the very case, else 0."""
        return float(any(gold in answer for gold in query.gold))

    def chance(self, query: Query) -> float:
        """The chance of one name of all."""
        return by_candidates(query)

    def whole(self, query: Query) -> bool:
        """True: a name is all of the answer."""
        return True


def tasks(folder: Folder) -> list[Needles]:
    """A task for each needle set and way to ask, where there are books to hide the facts in."""
    books = [folder.text(name) for name, _ in folder.matching(r"haystack/(?:[^/]+/)*[^/]+\.txt")]
    lines = [[line for line in book.splitlines() if line.strip()] for book in books]
    found = []
    for name, rows in folder.tables(r"(needle_set\w*)\.json", "id", "needle", "questions", "tests").items():
        for way in dict.fromkeys(itertools.chain.from_iterable(row["questions"] for row in rows)):
            facts = tuple(fact for row in rows if way in row["questions"] for fact in _facts(row, way))
            if facts and any(lines):
                found.append(Needles(f"{name} {way}", facts, [book for book in lines if book]))
    return found


def _facts(row: dict, way: str) -> list[Fact]:
    """The facts of a record, its numbered places filled in, as asked in one way."""
    distractor = row.get("distractors") or {}
    found = []
    for test in row["tests"].values():
        texts = [row["needle"], row["questions"][way], distractor.get(way, "")]
        for i, word in enumerate(test["input_args"]):
            texts = [text.replace(f"{{{i + 1}}}", word) for text in texts]
        gold = test.get("gold_answers") or ()
        gold = (gold,) if isinstance(gold, str) else tuple(gold)
        characters = tuple(row.get("character_set") or ()) if CHARACTER in row["needle"] else ()
        prompt = row.get("task_template") or PROMPT
        if not (gold or characters):
            raise ValueError(f"{row['id']}: no answer")
        found.append(Fact(texts[0], texts[1], () if characters else gold, characters, prompt, texts[2]))
    return found


NOLIMA = Set(
    "NoLiMa",
    "NoLiMa (arXiv 2502.05167): its prompt where a needle set has one, else a short one of our own; the beginnings of "
    "its books, facts at random depths and not at 26",
    "needlesets/needle_set.json",
    tasks,
)
