"""Chains of assignments: which variables have a value, among those whose value nothing says."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Query, Sample

TASK = "Below are statements about variables, in no order. All of them hold at once; some variables stay unknown.\n"
QUESTION = (
    '\nWhich variables must have the value {value}? End with one line: "The variables are:" and all of their names, '
    "with commas between them."
)
PREFIX = " The variables are:"
ROOT = 10  # the most that the first variable may be
_LINE = re.compile(r"^(V\d{6}) = (?:(V\d{6})(?: ([+-]) 1)?|(\d+))\.$", re.MULTILINE)
_NAME = re.compile(r"(?<!\w)V\d{6}(?!\w)")


@dataclasses.dataclass(frozen=True)
class Assignments:
    """Variables are asked for by value, from statements that each make one of another.

    Attributes:
      ops: variables that have a value: a random tree, whose root is given, and each other is its parent or one more or
        one less.
    """

    ops: int = 8
    smallest: int = 8
    source: str = (
        "GSM-Infinite's symbolic task (arXiv 2502.05252), with our own instructions, names that never repeat, and an "
        "answer read from one line"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if self.ops < 1:
            raise ValueError(f"{self} has no variable to ask for.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"all variables of a value, {self.ops} of them in a tree of assignments"

    @property
    def budget(self) -> int:
        """See Questions."""
        return 9 * self.ops + 16

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: statements about variables of a second tree, whose root has no value."""
        names = words.take(words.integers(rng, 6), self.ops)
        numbers, lines = [int(rng.integers(ROOT + 1))], []
        lines.append(f"V{names[0]} = {numbers[0]}.")
        for i in range(1, self.ops):
            parent, step = int(rng.integers(i)), int(rng.integers(-1, 2))
            numbers.append(numbers[parent] + step)
            lines.append(_statement(names[i], names[parent], step))
        values = list(dict.fromkeys(numbers))
        value = values[rng.integers(len(values))]
        gold = tuple(f"V{name}" for name, number in zip(names, numbers, strict=True) if number == value)
        hay = np.random.default_rng(rng.integers(1 << 62))
        lines += words.take(_unknown(hay, names), size)
        order = hay.permutation(len(lines))
        query = Query(QUESTION.format(value=value), PREFIX, gold)
        return Sample(TASK + "\n".join(lines[i] for i in order), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition(QUESTION.partition("{")[0])
        asked = scores.first_integer(question)
        known: dict[str, int] = {}
        children: dict[str, list[tuple[str, int]]] = {}
        for name, parent, sign, value in _LINE.findall(context):
            if parent:
                children.setdefault(parent, []).append((name, {"": 0, "+": 1, "-": -1}[sign]))
            else:
                known[name] = int(value)
        waiting = list(known)
        while waiting:
            parent = waiting.pop()
            for name, step in children.get(parent, ()):
                known[name] = known[parent] + step
                waiting.append(name)
        return ", ".join(name for name, value in known.items() if value == asked)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the line of the answer has all of the variables and no others, else 0."""
        return float(set(_NAME.findall(scores.after(answer, PREFIX))) == set(query.gold))

    def chance(self, query: Query) -> float:
        """See Questions: no name is known without the context."""
        return 0.0


def _statement(name: str, parent: str, step: int) -> str:
    return f"V{name} = V{parent}{('', ' + 1', ' - 1')[step]}."


def _unknown(hay: np.random.Generator, without: list[str]) -> Iterator[str]:
    """Yields statements about a tree whose root is never assigned, without end."""
    stream = words.integers(hay, 6, without)
    names = [next(stream)]
    for name in stream:
        yield _statement(name, names[hay.integers(len(names))], int(hay.integers(-1, 2)))
        names.append(name)
