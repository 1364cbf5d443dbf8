"""Traces of algorithms, every step written out with the operands that it fetches: addition, sorting, following a path.

As in TAIL (Xie et al. 2025): a step reads what it needs from the text, writes it down again, and is of the same form
however long the problem is.
"""

from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Series, log_uniform
from longctx.data.generated.writing import Writer, coined

ADD, SORT, WALK = "Add {} and {}.\n", "Sort {}.\n", "Edges {}. Start at {}, {} steps.\n"
NUMBERS = 1000  # of lists to be sorted: at most three digits


class Traces(Series):
    """Additions, lists to be sorted and paths to be followed, each with all of its steps and then the result."""

    smallest = 150

    def problem(self, rng: np.random.Generator, writer: Writer, documents: Sequence[Document]) -> None:
        """See Series.problem; `documents` are not read."""
        statement = (_addition, _list, _path)[int(rng.integers(3))](rng, writer.room)
        writer.say(statement)
        writer.answer(trace(statement))

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the trace of the last problem."""
        return trace(before.rpartition("\n\n")[2])


def trace(statement: str) -> str:
    """The steps of a problem, one a line, its result and an empty line."""
    words = statement.strip(".\n").replace(",", "").replace(".", "").split()
    if words[0] == "Add":
        return added(words[1], words[3])
    if words[0] == "Sort":
        return ordered([int(word) for word in words[1:]])
    at = words.index("Start")
    return walked(dict(word.split(">") for word in words[1:at]), words[at + 2], int(words[at + 3]))


def added(first: str, second: str) -> str:
    """The trace of an addition of two numbers of as many digits, from their last digit on."""
    carry, lines, digits = 0, [], []
    for place in range(len(first)):
        x, y = int(first[-place - 1]), int(second[-place - 1])
        total = x + y + carry
        lines.append(f"digit {place}: {x}+{y}+{carry}={total}, write {total % 10}, carry {total // 10}\n")
        digits.append(str(total % 10))
        carry = total // 10
    return "".join(lines) + "Sum: " + ("1" if carry else "") + "".join(reversed(digits)) + "\n\n"


def ordered(numbers: list[int]) -> str:
    """The trace of sorting by selection: at each step what is left, and the least of it."""
    left, done, lines = list(numbers), [], []
    while left:
        least = min(left)
        lines.append(f"left {_joined(left)}: least {least}\n")
        left.remove(least)
        done.append(least)
    return "".join(lines) + f"Sorted: {_joined(done)}\n\n"


def walked(edges: dict[str, str], start: str, steps: int) -> str:
    """The trace of following edges, node to next node."""
    lines, node = [], start
    for step in range(1, steps + 1):
        lines.append(f"step {step}: {node}>{edges[node]}\n")
        node = edges[node]
    return "".join(lines) + f"End: {node}\n\n"


def _addition(rng: np.random.Generator, room: int) -> str:
    digits = log_uniform(rng, 1, (room - 20) // 44 + 1)  # 44: bytes of a digit with its step
    return ADD.format(*("".join(map(str, row)) for row in rng.integers(0, 10, (2, digits)).tolist()))


def _list(rng: np.random.Generator, room: int) -> str:
    most = int((room / 2 - 20) ** 0.5 - 7)  # a step has 4 bytes of each number that is left, and 17
    return SORT.format(_joined(rng.integers(0, NUMBERS, log_uniform(rng, 1, max(2, most + 1))).tolist()))


def _path(rng: np.random.Generator, room: int) -> str:
    nodes = log_uniform(rng, 2, max(3, (room - 60) // 44 + 1))  # 44: bytes of an edge and of a step
    names, after = coined(rng, nodes), rng.permutation(nodes).tolist()
    edges = [f"{names[i]}>{names[after[i]]}" for i in rng.permutation(nodes).tolist()]
    return WALK.format(", ".join(edges), names[0], log_uniform(rng, 1, nodes + 1))


def _joined(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
