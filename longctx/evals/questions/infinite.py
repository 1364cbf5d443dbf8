"""InfiniteBench's generated tasks but key-value retrieval: hidden numbers, extremes of a list, sums, nested calls."""

import dataclasses
import re
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from longctx.data.generated.passkey import GRASS
from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Guessed, Query, Sample

SOURCE = "InfiniteBench's {task} (arXiv 2402.13718), with our own instructions{differs}"


@dataclasses.dataclass(frozen=True)
class HiddenNumber(Guessed):
    """A number hidden in one text that comes again and again.

    Attributes:
      doubled: digits that are written twice, five times over, so that the number has ten; else it has five.
    """

    doubled: bool = False
    budget: int = 16
    smallest: int = 4
    diffusion: str = "low"
    scope: str = "low"

    @property
    def what(self) -> str:
        """See Questions."""
        return f"a number of {10 if self.doubled else 5} digits{' with repeats' if self.doubled else ''}, in noise"

    @property
    def source(self) -> str:
        """See Questions."""
        return SOURCE.format(task="Retrieve.Number" if self.doubled else "Retrieve.PassKey", differs="")

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: times that the text comes."""
        numbers, depth = words.take(_numbers(rng, self.doubled), CHOICES), float(rng.random())
        task = "Somewhere in this text a number is hidden. Keep it in mind.\n"
        needle = f"The number that you must keep in mind is {numbers[0]}. Again, the number is {numbers[0]}."
        lines = words.placed([GRASS.strip()] * size, [(depth, needle)])
        query = Query("\nWhich number was hidden in the text?", " The number is", (numbers[0],), tuple(numbers), depth)
        return Sample(task + "\n".join(lines), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        return re.findall(r"keep in mind is (\d+)\.", prompt)[0]

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first digits of the answer are the number."""
        found = re.search(r"\d+", answer)
        return float(found is not None and found[0] == query.gold[0])


def _numbers(rng: np.random.Generator, doubled: bool) -> Iterator[str]:
    """Yields numbers as text, each once."""
    seen = set()
    for text in words.integers(rng, 5):
        for at in (rng.random(5) * range(5, 10)).astype(int).tolist() if doubled else ():
            text = text[:at] + text[at] + text[at:]
        if text not in seen:  # 12333 and 11233 can both become 1112223333
            seen.add(text)
            yield text


@dataclasses.dataclass(frozen=True)
class FindNumbers(Guessed):
    """The extremes and the median of a long list of numbers of two digits, seven queries of one list."""

    budget: int = 8
    smallest: int = 8
    diffusion: str = "high"
    scope: str = "high"
    what: str = "the three largest, the three smallest and the median of a list"
    source: str = SOURCE.format(
        task="Math.Find",
        differs="; 10 to 99 rather than 0 to 99, each asked number comes once, and a list is asked for all seven",
    )
    NAMES: ClassVar = (
        "smallest number",
        "second smallest number",
        "third smallest number",
        "median",
        "third largest number",
        "second largest number",
        "largest number",
    )

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: pairs of numbers, one on each side of the median, within the extremes."""
        low, high = (np.sort(rng.permutation(np.arange(*ends))[:3]) for ends in ((10, 30), (80, 100)))
        middle = int(rng.integers(45, 65))
        asked, depths = [*low.tolist(), middle, *high.tolist()], rng.random(7)
        candidates = [self._candidates(rng, number, asked) for number in asked]
        hay = np.random.default_rng(rng.integers(1 << 62))
        drawn, first, last = hay.random((size, 2)), asked[2] + 1, asked[4]
        below = first + (drawn[:, 0] * (middle - first)).astype(int)
        above = middle + 1 + (drawn[:, 1] * (last - middle - 1)).astype(int)
        inner = hay.permutation(np.concatenate([below, above])).astype(str).tolist()
        numbers = words.placed(inner, [(depths[i], str(number)) for i, number in enumerate(asked)])
        queries = [
            Query(
                f"\nWhich number is the {name} of the list?",
                f" The {name} is",
                (str(number),),
                candidates[i],
                None if name == "median" else float(depths[i]),
            )
            for i, (name, number) in enumerate(zip(self.NAMES, asked, strict=True))
        ]
        return Sample("Consider this list of numbers: " + ", ".join(numbers) + ".", tuple(queries))

    def _candidates(self, rng: np.random.Generator, number: int, asked: list[int]) -> tuple[str, ...]:
        """The number, then others from about where it is: those asked for first, which are in the text."""
        near = next(range(low, low + 20) for low in (10, 45, 80) if low <= number < low + 20)
        drawn = [*(other for other in asked if other in near), *rng.permutation(np.array(near)).tolist()]
        return (str(number), *[str(other) for other in dict.fromkeys(drawn) if other != number][: CHOICES - 1])

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\n")
        numbers = sorted(int(number) for number in re.findall(r"\d+", context))
        at = self.NAMES.index(re.findall(r"is the ([\w ]+) of the list", question)[0])
        return str(numbers[(0, 1, 2, len(numbers) // 2, -3, -2, -1)[at]])

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first integer is the number."""
        return float(scores.first_integer(answer) == int(query.gold[0]))


@dataclasses.dataclass(frozen=True)
class RunningTotal:
    """All values that a counter takes: it is set, then added to and subtracted from, among other counters.

    Attributes:
      steps: values after the first, all from 0 to 99.
    """

    steps: int = 10
    smallest: int = 10
    diffusion: str = "high"
    scope: str = "low"
    source: str = SOURCE.format(
        task="Math.Calc",
        differs="; ten terms among those of other counters, which make it longer, rather than one sum of 30,000",
    )

    @property
    def what(self) -> str:
        """See Questions."""
        return f"{self.steps} intermediate values of a sum, among other sums"

    @property
    def budget(self) -> int:
        """See Questions."""
        return 5 * self.steps

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: operations on other counters."""
        names = words.permuted(rng, words.NOUNS)
        moves = rng.integers(1, 100, self.steps)  # from 1: each value differs from the one before, and any other may be
        values = [int(value) for value in (rng.integers(0, 100) + np.cumsum([0, *moves])) % 100]
        depths = np.sort(rng.random(self.steps + 1))
        hay = np.random.default_rng(rng.integers(1 << 62))
        last, lines = dict.fromkeys(names[1:]), []
        for which, value in (hay.random((size, 2)) * [len(names) - 1, 100]).astype(int).tolist():
            name = names[1 + which]
            lines.append(_operation(name, last[name], value))
            last[name] = value
        facts = [(depths[i], _operation(names[0], ([None] + values)[i], values[i])) for i in range(len(values))]
        task = "Counters are set with =, and changed with + and -, line by line.\n"
        query = Query(
            f"\nWhich value does the counter {names[0]} have after each of its changes, in order?",
            f" The values of {names[0]}, from {values[0]} on:",
            tuple(map(str, values[1:])),
        )
        return Sample(task + "\n".join(words.placed(lines, facts)), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\n")
        name, value, values = re.findall(r"the counter (\w+) have", question)[0], 0, []
        for sign, number in re.findall(rf"^{name} ([=+-]) (\d+)$", context, re.MULTILINE):
            value = int(number) if sign == "=" else value + int(sign + number)
            values.append(value)
        return ", ".join(map(str, values[1:]))

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the share of the values that comes before the first wrong one, in the first line."""
        return scores.leading_share(re.findall(r"\d+", scores.first_line(answer)), query.gold)

    def chance(self, query: Query) -> float:
        """See Questions: that a list of any values scores; the first is right once in 99, so is each after that."""
        return sum(99.0**-count for count in range(1, len(query.gold) + 1)) / len(query.gold)


def _operation(name: str, before: int | None, after: int) -> str:
    if before is None:
        return f"{name} = {after}"
    return f"{name} {'-' if after < before else '+'} {abs(after - before)}"


@dataclasses.dataclass(frozen=True)
class NestedCalls(Guessed):
    """What a Python function returns that calls another, which calls another, and so on; each adds a constant.

    Attributes:
      calls: functions that run.
    """

    calls: int = 5
    budget: int = 16
    smallest: int = 10
    diffusion: str = "high"
    scope: str = "low"
    source: str = SOURCE.format(
        task="Code.Run",
        differs="; functions have names of words and stand in random order, and those not called make it longer",
    )

    @property
    def what(self) -> str:
        """See Questions."""
        return f"the result of {self.calls} nested calls among other functions"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: functions that are not called."""
        stream = (key.replace("-", "_") for key in words.keys(rng))
        names = words.take(stream, self.calls)
        added, depths = _constants(rng.random(self.calls)), rng.random(self.calls)
        argument = int(100 * self.calls + rng.integers(100, 1000))  # results have three digits or more
        result = argument + sum(added)
        wrong = result + rng.permutation(np.delete(np.arange(-40, 41), 40))[: CHOICES - 1]
        hay = np.random.default_rng(rng.integers(1 << 62))
        facts = [
            (depths[i], _function(name, called, added[i]))
            for i, (name, called) in enumerate(zip(names, [*names[1:], None], strict=True))
        ]
        names += words.take(stream, size)
        drawn = hay.random((size, 2))
        callees = (drawn[:, 0] * np.arange(self.calls, self.calls + size)).astype(int)
        constants, lines = _constants(drawn[:, 1]), []
        for i in hay.permutation(size).tolist():  # each calls one made before it: nothing calls itself
            lines.append(_function(names[self.calls + i], names[callees[i]], constants[i]))
        query = Query(
            f"\nWhat does {names[0]}({argument}) return?",
            f" {names[0]}({argument}) returns",
            (str(result),),
            tuple(str(value) for value in (result, *wrong.tolist())),
            float(depths[0]),
        )
        return Sample("Here is a Python module.\n\n" + "\n".join(words.placed(lines, facts)), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\n")
        found = re.findall(r"def (\w+)\(x\):\n    return (\w+)(?:\(x\))? ([+-]) (\d+)\n", context + "\n")
        functions = {name: (called, int(sign + number)) for name, called, sign, number in found}
        [(name, argument)] = re.findall(r"What does (\w+)\((\d+)\)", question)
        result = int(argument)
        while name in functions:
            name, constant = functions[name]
            result += constant
        return str(result)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: whether the first integer is the result."""
        return float(scores.first_integer(answer) == int(query.gold[0]))


def _constants(drawn: np.ndarray) -> list[int]:
    """Constants from -99 to 99 but 0, of numbers from 0 to 1."""
    return [int(value) - 99 if value < 99 else int(value) - 98 for value in drawn * 198]


def _function(name: str, called: str | None, constant: int) -> str:
    inner = f"{called}(x)" if called else "x"
    return f"def {name}(x):\n    return {inner} {'-' if constant < 0 else '+'} {abs(constant)}\n"
