"""Short tasks lifted to a long context: many of them in a text, of which one or some are to be solved."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Query, Sample

LOW, HIGH = 100, 1000  # results are from LOW to HIGH - 1
BY_ID = ("\nSolve the problem with the id {}.", " The result of it is")
BY_SUBJECT = ("\nSolve the problem about the {}.", " The result of it is")
BY_AUTHOR = ("\nSolve all problems that {} wrote.", " The results of them are")
_PROBLEM = re.compile(
    r"^\[(\w+)\] By (\w+): The owner of the (\w+ \w+) has (\d+) coins, earns (\d+) and pays (\d+)\.", re.MULTILINE
)


@dataclasses.dataclass(frozen=True)
class Lift:
    """Problems in arithmetic are to be solved: the one of an id, the one of a subject, and all by an author.

    Each is a question of its own about the same context.

    Attributes:
      written: problems by the author who is asked about.
    """

    written: int = 3
    what: str = "three questions: to solve the problem of an id, of a subject, and all by an author, among many"
    budget: int = 32
    smallest: int = 1
    source: str = (
        "M4LE (arXiv 2310.19240), with one kind of generated problems in place of its data sets, and no question about "
        "all of them, whose answer would change with the length"
    )
    diffusion: str = "low"
    scope: str = "low"

    def __post_init__(self):
        if self.written < 1:
            raise ValueError(f"{self} has no problem by the author who is asked about.")

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: problems that have nothing to do with the questions."""
        names, count = words.coined(rng), 2 * CHOICES + self.written
        ids, authors = words.take(names, count), words.take(names, count - self.written + 1)
        authors += authors[-1:] * (self.written - 1)
        subjects = rng.permutation(len(words.ADJECTIVES) * len(words.NOUNS)).tolist()
        about, others = subjects[:count], subjects[count:]
        results = (LOW + rng.permutation(HIGH - LOW)[:count]).tolist()
        facts = _problems(rng, ids, authors, about, results)
        first, second, last = (tuple(map(str, some)) for some in np.split(results, [CHOICES, 2 * CHOICES]))
        queries = (
            Query(BY_ID[0].format(ids[0]), BY_ID[1], first[:1], first),
            Query(BY_SUBJECT[0].format(_subject(about[CHOICES])), BY_SUBJECT[1], second[:1], second),
            Query(BY_AUTHOR[0].format(authors[-1]), BY_AUTHOR[1], last),
        )
        hay = np.random.default_rng(rng.integers(1 << 62))
        first, second = hay.spawn(2)
        picked = words.picks(first, size, len(others), HIGH - LOW)
        about, values = [others[i] for i, _ in picked], [LOW + value for _, value in picked]
        of = words.take(names, 2 * size)
        more = _problems(second, of[::2], of[1::2], about, values)
        intro = (
            "Each line below is a problem, after its id in brackets and its author: how many coins are there in the "
            "end? You will be asked for some of the results.\n"
        )
        return Sample(intro + "\n".join(words.permuted(hay, facts + more)), queries, queries[:2])

    def solve(self, prompt: str) -> str:
        """See Questions."""
        asked = re.findall(r"(?:id|about the|that) (\w+(?: \w+)??)(?: wrote)?\.", prompt.rpartition("\n")[2])[0]
        return ", ".join(
            str(int(has) + int(earns) - int(pays)) for *of, has, earns, pays in _PROBLEM.findall(prompt) if asked in of
        )

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first integer is right; of several, their F1."""
        if query.candidates:
            return float(scores.first_integer(answer) == int(query.gold[0]))
        return scores.set_f1(re.findall(r"\d+", answer), query.gold)

    def chance(self, query: Query) -> float:
        """See Questions: of several, that of all results there can be, of which each is as likely as the others."""
        several = len(query.gold)
        return 1 / len(query.candidates) if query.candidates else 2 * several / (HIGH - LOW + several)


def _problems(rng: np.random.Generator, ids: list[str], authors: list[str], about: list[int], results: list[int]):
    """A line for each problem: an id, its author, its subject, and numbers that have the result."""
    given = words.picks(rng, len(ids), LOW, LOW)
    return [
        f"[{name}] By {author}: The owner of the {_subject(subject)} has {result - plus + minus} coins, "
        f"earns {plus} and pays {minus}."
        for name, author, subject, result, (plus, minus) in zip(ids, authors, about, results, given, strict=True)
    ]


def _subject(number: int) -> str:
    adjective, noun = divmod(number, len(words.NOUNS))
    return f"{words.ADJECTIVES[adjective]} {words.NOUNS[noun]}"
