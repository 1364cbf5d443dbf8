"""A Python list that statements change, most of them to no effect."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import scores
from longctx.evals.questions.question import Guessed, Query, Sample

TASK = "These statements are run in order in Python:\n"
QUESTION = "\nWhat is the value of {view} in the end?"
PREFIX = " The value is"
VARIED = 3  # elements that candidates differ in: each is one of two values
CHOICES = 2**VARIED
VALUES = (1, 100)  # from the first to below the second
FIRST = 6  # elements at the beginning
NEUTRAL = (  # pairs of statements that leave a list as it was, whatever it holds
    ("{}.append({value})", "{}.pop()"),
    ("{}.insert(0, {value})", "{}.pop(0)"),
    ("{}.reverse()", "{}.reverse()"),
)
NESTED = 3  # of these pairs, at most, inside one another
OPERATIONS = ("append", "insert", "pop", "remove", "reverse", "sort", "extend")
_STATEMENT = re.compile(rf"^items(?: = |\.({'|'.join(OPERATIONS)})\()\[?([\d, ]*)\]?\)?$", re.MULTILINE)
_VIEW = re.compile(r"(items|sum\(items\)|items\[(\d+)\]) in the end\?")
_NUMBER = re.compile(r"-?\d+")


def run(items: list[int], operation: str, numbers: list[int]) -> list[int]:
    """The list after one of OPERATIONS; "" sets it."""
    items = list(items) if operation else []
    if operation in ("", "extend"):
        return items + numbers
    getattr(items, operation)(*numbers)
    return items


@dataclasses.dataclass(frozen=True)
class LatentList(Guessed):
    """The list itself, its sum and one element are asked for.

    Attributes:
      ops: statements that matter. Those between them come in pairs that cancel, or change another list.
    """

    ops: int = 5
    smallest: int = 8
    source: str = (
        "Latent List of Michelangelo (arXiv 2409.12640), whose program is not public: our own operations and views, "
        "all scored by exact match"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if self.ops < 1:
            raise ValueError(f"{self} has no operation that matters.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"a list after {self.ops} operations that matter"

    @property
    def budget(self) -> int:
        """See Questions: for the longest list, each operation adding three elements at most."""
        return 4 * (FIRST + 3 * self.ops) + 16

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: blocks of statements without effect on the list."""
        items = rng.integers(*VALUES, FIRST).tolist()
        first, told = f"items = {items}", []
        for _ in range(self.ops):
            operation, numbers = _operation(rng, items)
            items = run(items, operation, numbers)
            told.append(f"items.{operation}({numbers if operation == 'extend' else ', '.join(map(str, numbers))})")
        depths = np.sort(rng.random(self.ops))
        queries = _queries(rng, items)
        hay = np.random.default_rng(rng.integers(1 << 62))
        blocks = [_neutral(hay) for _ in range(size)]
        lines, done = [first, "spare = []"], 0
        for depth, statement in zip(depths, told, strict=True):
            place = round(depth * size)
            lines += [*blocks[done:place], statement]
            done = place
        return Sample(TASK + "\n".join(lines + blocks[done:]), queries)

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition(QUESTION.partition("{")[0])
        items: list[int] = []
        for operation, numbers in _STATEMENT.findall(context):
            items = run(items, operation, [int(number) for number in _NUMBER.findall(numbers)])
        view, index = _VIEW.findall(question)[0]
        return str(items[int(index)] if index else sum(items) if view == "sum(items)" else items)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the line of the answer has the numbers of the gold and no others; of one number, where
        it comes first."""
        said, gold = (_NUMBER.findall(text) for text in (scores.after(answer, PREFIX), query.gold[0]))
        return float((said if query.gold[0][0] == "[" else said[:1]) == gold)


def _operation(rng: np.random.Generator, items: list[int]) -> tuple[str, list[int]]:
    """An operation that the list allows and changes, and its numbers."""
    while True:
        name = OPERATIONS[rng.integers(len(OPERATIONS))]
        place, value = int(rng.integers(len(items))), int(rng.integers(*VALUES))
        numbers = dict(
            append=[value],
            insert=[place, value],
            pop=[place],
            remove=[items[place]],
            extend=rng.integers(*VALUES, 3).tolist(),
        ).get(name, [])
        after = run(items, name, numbers)
        if len(after) >= VARIED and after != items:
            return name, numbers


def _queries(rng: np.random.Generator, items: list[int]) -> tuple[Query, ...]:
    index = int(rng.integers(len(items)))
    step, rank = int(rng.integers(1, 11)), int(rng.integers(CHOICES))  # the right sum is of any rank
    sums = [sum(items) + step * (i - rank) for i in range(CHOICES)]
    elements = [items[index], *_without(rng, items[index])[: CHOICES - 1]]
    views = (("items", _variants(rng, items)), ("sum(items)", [sums.pop(rank), *sums]), (f"items[{index}]", elements))
    return tuple(
        Query(QUESTION.format(view=view), PREFIX, (str(values[0]),), tuple(map(str, values))) for view, values in views
    )


def _without(rng: np.random.Generator, value: int) -> list[int]:
    """All values but one, in random order."""
    return [other for other in rng.permutation(np.arange(*VALUES)).tolist() if other != value]


def _variants(rng: np.random.Generator, items: list[int]) -> list[list[int]]:
    """The list, and those that differ from it in some of a few elements: none is more alike to all than another."""
    found = [items]
    for place in rng.permutation(len(items))[:VARIED].tolist():
        other = _without(rng, items[place])[0]
        found += [[*each[:place], other, *each[place + 1 :]] for each in found]
    return found


def _neutral(hay: np.random.Generator) -> str:
    """A block of statements that leave the list as it was."""
    kind, pairs, *drawn = hay.integers(12, size=2 + NESTED).tolist()
    numbers = hay.integers(*VALUES, NESTED).tolist()
    if kind < 3:
        return f"spare.append({numbers[0]})"
    chosen = [NEUTRAL[i % len(NEUTRAL)] for i in drawn[: 1 + pairs % NESTED]]
    before = [pair[0].format("items", value=value) for pair, value in zip(chosen, numbers, strict=False)]
    return "\n".join(before + [pair[1].format("items") for pair in reversed(chosen)])
