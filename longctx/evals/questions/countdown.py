"""Puzzles in which four numbers make a target by arithmetic; one of many is to be solved."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from longctx.evals.questions import words
from longctx.evals.questions.question import Query, Sample

TASK = (
    "Each puzzle below gives numbers and a target. To solve one, join two of its numbers by +, -, * or / into a new "
    "one, with the larger first, and go on with it and the others until the target alone is left. All numbers on the "
    "way are whole and positive.\n"
)
LINE = "Puzzle {}: the numbers {}; the target {}."
QUESTION = (
    '\nSolve puzzle {}. Give {} equations, one on each line, such as "8 * 3 = 24", which use each of its numbers once '
    "and end with its target."
)
PREFIX = " The equations are:"
NUMBERS = (1, 51)  # from the first to below the second
TARGETS = (10, 1000)
MOST = 2000  # that a number on the way may be
_LINE = re.compile(r"^Puzzle (\d+): the numbers ([\d, ]+); the target (\d+)\.$", re.MULTILINE)
_ASKED = re.compile(r"\nSolve puzzle (\d+)\.")
_EQUATION = re.compile(r"(?<!\w)(\d{1,5}) ?([-+*/]) ?(\d{1,5}) ?= ?(\d{1,5})(?!\w)")


class Equation(NamedTuple):
    """Two numbers, the larger first, and what an operation makes of them."""

    larger: int
    operation: str
    smaller: int
    result: int

    def __str__(self):
        return f"{self.larger} {self.operation} {self.smaller} = {self.result}"


def joined(one: int, other: int) -> list[Equation]:
    """All equations of two numbers whose result is whole, positive and no more than MOST."""
    a, b = max(one, other), min(one, other)
    results = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if a % b == 0 else 0}
    return [Equation(a, operation, b, result) for operation, result in results.items() if 0 < result <= MOST]


def solved(numbers: Sequence[int], target: int) -> list[Equation] | None:
    """The first solution of a depth-first search; None where there is none."""
    if len(numbers) == 1:
        return [] if numbers[0] == target else None
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            rest = [*numbers[:i], *numbers[i + 1 : j], *numbers[j + 1 :]]
            for equation in joined(numbers[i], numbers[j]):
                if (then := solved([*rest, equation.result], target)) is not None:
                    return [equation, *then]
    return None


@dataclasses.dataclass(frozen=True)
class Countdown:
    """The equations that solve a puzzle are asked for.

    Attributes:
      numbers: of each puzzle.
    """

    numbers: int = 4
    smallest: int = 8
    source: str = (
        "LongProc's countdown (arXiv 2501.05414), with our own instructions and without the trace of the search; the "
        "puzzle is one of many, so that it has a context"
    )
    diffusion: str = "low"
    scope: str = "low"

    def __post_init__(self):
        if not 2 <= self.numbers <= 5:
            raise ValueError(f"{self}: puzzles have 2 to 5 numbers, more take too long to solve.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"equations that make a target of {self.numbers} numbers, for one puzzle of many"

    @property
    def budget(self) -> int:
        """See Questions: 20 bytes at most for an equation."""
        return 20 * self.numbers

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: puzzles that are not asked for, each solved by nobody."""
        name = next(words.integers(rng, 6))
        numbers, equations = self._puzzle(rng)
        depth = rng.random()
        hay = np.random.default_rng(rng.integers(1 << 62))
        lines = words.take(self._others(hay, name), size)
        lines.insert(round(depth * size), _line(name, numbers, equations[-1].result))
        query = Query(
            QUESTION.format(name, self.numbers - 1), PREFIX, tuple(str(each) for each in equations), depth=depth
        )
        return Sample(TASK + "\n".join(lines), (query,))

    def _puzzle(self, rng: np.random.Generator) -> tuple[list[int], list[Equation]]:
        while True:
            numbers = rng.integers(*NUMBERS, self.numbers).tolist()
            left, equations = list(numbers), []
            while len(left) > 1:
                two = [left.pop(int(rng.integers(len(left)))) for _ in range(2)]
                options = joined(*two)
                equations.append(options[rng.integers(len(options))])
                left.append(equations[-1].result)
            if TARGETS[0] <= left[0] < TARGETS[1]:
                return numbers, equations

    def _others(self, hay: np.random.Generator, name: str) -> Iterator[str]:
        for other in words.integers(hay, 6, (name,)):
            yield _line(other, hay.integers(*NUMBERS, self.numbers).tolist(), int(hay.integers(*TARGETS)))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        asked = _ASKED.findall(prompt)[-1]
        numbers, target = next((numbers, target) for name, numbers, target in _LINE.findall(prompt) if name == asked)
        equations = solved([int(number) for number in numbers.split(", ")], int(target))
        return "\n".join(map(str, equations or ()))

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the first equations, as many as are asked for, solve the puzzle in any way, else 0."""
        gold = _equations("\n".join(query.gold))
        said = _equations(answer.rpartition(PREFIX.strip())[2])[: len(gold)]
        left = Counter(number for each in gold for number in (each.larger, each.smaller))
        left -= Counter(each.result for each in gold[:-1])
        for each in said:
            left.subtract((each.larger, each.smaller))
            if min(left.values()) < 0 or each not in joined(each.larger, each.smaller):
                return 0.0
            left[each.result] += 1
        return float(len(said) == len(gold) and +left == Counter([gold[-1].result]))

    def chance(self, query: Query) -> float:
        """See Questions: the numbers are known to nobody."""
        return 0.0


def _equations(text: str) -> list[Equation]:
    return [Equation(int(a), operation, int(b), int(result)) for a, operation, b, result in _EQUATION.findall(text)]


def _line(name: str, numbers: list[int], target: int) -> str:
    return LINE.format(name, ", ".join(map(str, numbers)), target)
