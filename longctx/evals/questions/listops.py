"""Nested operations on lists of digits, written as one expression."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import scores
from longctx.evals.questions.question import Guessed, Query, Sample

TASK = (
    "In the expression below, [MIN ...], [MAX ...] and [MED ...] stand for the least, the largest and the median of "
    "what is inside (of two medians, their mean, rounded down), and [SM ...] for the last digit of the sum.\n"
)
QUESTION = "\nWhat digit does the expression give?"
PREFIX = " The digit is"
OPERATIONS = ("MIN", "MAX", "MED", "SM")
FEWEST, MOST = 2, 10  # arguments
_TOKEN = re.compile(r"\[[A-Z]+|\d|\]")


def evaluated(operation: str, digits: list[int]) -> int:
    """What an operation makes of its arguments."""
    if operation == "MED":
        digits = sorted(digits)
        return (digits[(len(digits) - 1) // 2] + digits[len(digits) // 2]) // 2
    return {"MIN": min, "MAX": max, "SM": lambda all_of: sum(all_of) % 10}[operation](digits)


@dataclasses.dataclass(frozen=True)
class ListOps(Guessed):
    """The value of an expression. It grows by digits that turn into operations of the same value.

    Attributes:
      depth: the most operations inside one another.
    """

    depth: int = 10
    budget: int = 8
    smallest: int = 8
    source: str = (
        "ListOps of the Long Range Arena (arXiv 2011.04006; arXiv 1804.06028), with the same operations, depth and "
        "numbers of arguments; expressions grow from an answer, so that all digits are equally likely, and to the "
        "length asked for: 500 to 2,000 operations, digits and brackets there are about 72 to 285 operations here"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if self.depth < 2:
            raise ValueError(f"{self} is too shallow to grow.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"the value of nested list operations, up to {self.depth} deep"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: operations. Raises ValueError where the depth allows no more."""
        digits = [str(digit) for digit in rng.permutation(10)]
        hay = np.random.default_rng(rng.integers(1 << 62))
        root: list = [int(digits[0])]
        open_leaves = [(root, 0, 0)]  # (arguments that a digit is in, its place, operations around it)
        for _ in range(size):
            if not open_leaves:
                raise ValueError(f"No expression of depth {self.depth} has {size:,} operations.")
            at = int(hay.integers(len(open_leaves)))
            open_leaves[at], open_leaves[-1] = open_leaves[-1], open_leaves[at]
            inside, place, depth = open_leaves.pop()
            operation = OPERATIONS[hay.integers(len(OPERATIONS))]
            node = arguments(hay, operation, inside[place])
            inside[place] = (operation, node)
            if depth + 1 < self.depth:
                open_leaves += [(node, i, depth + 1) for i in range(len(node))]
        return Sample(TASK + _text(root[0]), (Query(QUESTION, PREFIX, (digits[0],), tuple(digits)),))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        expression = prompt[len(TASK) :].rpartition(QUESTION)[0]
        stack: list[list] = [["", []]]
        for token in _TOKEN.findall(expression):
            if token == "]":
                operation, digits = stack.pop()
                stack[-1][1].append(evaluated(operation, digits))
            elif token[0] == "[":
                stack.append([token[1:], []])
            else:
                stack[-1][1].append(int(token))
        return str(stack[0][1][0])

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the first number on the line of the answer is the digit, else 0."""
        return float(scores.first_integer(scores.after(answer, PREFIX)) == int(query.gold[0]))


def arguments(rng: np.random.Generator, operation: str, value: int) -> list:
    """2 to 10 digits, in random order, of which an operation makes a value."""
    count = int(rng.integers(FEWEST, MOST + 1))
    if operation == "SM":
        digits = rng.integers(0, 10, count - 1).tolist()
        digits.append((value - sum(digits)) % 10)
    elif operation == "MED":
        low, high = value, value
        if count % 2 == 0:  # two medians, whose mean is the value or half more
            low = int(rng.integers(max(0, 2 * value - 9), value + 1))
            high = min(9, 2 * value - low + int(rng.integers(2)))
        half = (count - 1) // 2
        digits = [*rng.integers(0, low + 1, half).tolist(), *rng.integers(high, 10, half).tolist()]
        digits += [value] if count % 2 else [low, high]
    else:
        low, high = (value, 10) if operation == "MIN" else (0, value + 1)
        digits = [value, *rng.integers(low, high, count - 1).tolist()]
    return [digits[i] for i in rng.permutation(count)]


def _text(node) -> str:
    if isinstance(node, int):
        return str(node)
    operation, inside = node
    return f"[{operation} {' '.join(map(_text, inside))}]"
