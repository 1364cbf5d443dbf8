"""Needle threading: a JSON object of UUIDs whose values are looked up, or are the keys that are looked up next."""

import dataclasses
import re

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import CHOICES, Guessed, Query, Sample

TASK = "Below is a JSON object of keys and values. Remember it: you will be asked about it.\n"
LOOKUP = "\nWhich values do these keys have? Keys: {keys}"
FOLLOW = (
    "\nStart at each of these keys. Look up its value; where that value is itself a key, look up the value of that "
    "key, and so on, until you come to a value that is no key. Which is the final value for each? Keys: {keys}"
)
MARKED = '\nWhich values belong to the keys that contain the character "{mark}"?'
PREFIX = " Values:"
MARKS = "*#@%"
DIRECTIONS = ("forward", "backward", "random")
SOURCE = "Needle Threading's {task} (arXiv 2411.05000), with our own instructions{differs}"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PAIR = re.compile(r'"(\S+)": "(\S+)"')


@dataclasses.dataclass(frozen=True)
class Threads(Guessed):
    """Values are looked up, in as many steps as a thread has.

    Attributes:
      threads: how many are asked for, in one question; each has a key to start at.
      steps: pairs of a thread; the value of each but the last is the key of the next. 1 is a needle.
      direction: in which order a thread's pairs stand in the text, "forward", "backward" or "random".
    """

    threads: int = 1
    steps: int = 1
    direction: str = "forward"
    smallest: int = CHOICES - 1
    scope: str = "low"
    diffusion: str = "high"

    def __post_init__(self):
        if self.threads < 1 or self.steps < 1 or self.direction not in DIRECTIONS:
            raise ValueError(f"{self} has no thread or no step, or its direction is none of {DIRECTIONS}.")

    @property
    def what(self) -> str:
        """See Questions."""
        asked = f"{self.threads} UUIDs by key" if self.threads > 1 else "a UUID by its key"
        return asked + (f", {self.steps} steps {self.direction}" if self.steps > 1 else "")

    @property
    def budget(self) -> int:
        """See Questions: a token for each character."""
        return 40 * self.threads

    @property
    def source(self) -> str:
        """See Questions."""
        kinds = ("single thread", "multi-threading") if self.steps > 1 else ("single needle", "multiple needles")
        differs = "; values score by share" if self.threads > 1 else ""
        return SOURCE.format(task=kinds[self.threads > 1], differs=differs)

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: pairs that belong to no thread."""
        threads = [words.many_uuids(rng, self.steps + 1) for _ in range(self.threads)]
        depths = rng.random((self.threads, self.steps))
        if self.direction != "random":
            depths = np.sort(depths) if self.direction == "forward" else -np.sort(-depths)
        others = words.many_uuids(rng, CHOICES - 1)
        hay = np.random.default_rng(rng.integers(1 << 62))
        facts = [
            (depths[i, j], _pair(thread[j], thread[j + 1]))
            for i, thread in enumerate(threads)
            for j in range(self.steps)
        ]
        gold = tuple(thread[-1] for thread in threads)
        single = self.threads == 1
        query = Query(
            (FOLLOW if self.steps > 1 else LOOKUP).format(keys=", ".join(thread[0] for thread in threads)),
            PREFIX,
            gold,
            (*gold, *[*threads[0][1:-1], *others][: CHOICES - 1]) if single else (),
            float(depths[0, 0]) if single else None,
        )
        return Sample(_object(_haystack(hay, size, others), facts), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\n}\n")
        pairs, found = dict(_PAIR.findall(context)), []
        for value in _UUID.findall(question):
            while value in pairs:
                value = pairs[value]
            found.append(value)
        return ", ".join(found)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the share of the values that the answer holds."""
        return scores.share_held(answer, query.gold)


@dataclasses.dataclass(frozen=True)
class Marked:
    """The values of all keys that contain a character are asked for.

    Attributes:
      needles: how many keys contain it; as many contain each of the other characters that could be asked for.
    """

    needles: int = 5
    smallest: int = 5
    scope: str = "high"
    diffusion: str = "high"
    source: str = SOURCE.format(
        task="conditional needles", differs="; as many keys contain another character; values score by F1"
    )

    @property
    def what(self) -> str:
        """See Questions."""
        return f"{self.needles} UUIDs by a character in their keys"

    @property
    def budget(self) -> int:
        """See Questions: a token for each character."""
        return 40 * self.needles

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: pairs whose keys contain no such character."""
        count = self.needles * len(MARKS)
        marks = [MARKS[i] for i in rng.permutation(len(MARKS))]
        keys, values = words.many_uuids(rng, count), words.many_uuids(rng, count)
        at, depths = rng.integers(1, 36, count), rng.random(count)
        hay = np.random.default_rng(rng.integers(1 << 62))
        facts = [
            (depths[i], _pair(keys[i][: at[i]] + marks[i // self.needles] + keys[i][at[i] :], values[i]))
            for i in range(count)
        ]
        query = Query(MARKED.format(mark=marks[0]), PREFIX, tuple(values[: self.needles]))
        return Sample(_object(_haystack(hay, size), facts), (query,))

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\n}\n")
        mark = re.findall(r'character "(.)"', question)[0]
        return ", ".join(value for key, value in _PAIR.findall(context) if mark in key)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: F1 of the UUIDs in the answer."""
        return scores.set_f1(_UUID.findall(answer.lower()), query.gold)

    def chance(self, query: Query) -> float:
        """See Questions: UUIDs are not guessed."""
        return 0.0


def _pair(key: str, value: str) -> str:
    return f'"{key}": "{value}"'


def _haystack(rng: np.random.Generator, size: int, values: list[str] | None = None) -> list[str]:
    """`size` pairs in random order; the first of them have the given values, so that candidates are in the text."""
    drawn = words.many_uuids(rng, 2 * size)
    own = [*(values or []), *drawn[1::2][len(values or []) :]]
    return [_pair(drawn[2 * i], own[i]) for i in rng.permutation(size)]


def _object(lines: list[str], facts: list[tuple[float, str]]) -> str:
    return TASK + "{\n" + ",\n".join(words.placed(lines, facts)) + "\n}"
