"""The answers to questions, sample by sample: what is kept of each, so that an evaluation goes on where it stopped."""

import hashlib
from collections.abc import Callable, Iterable


class Samples:
    """The samples that were asked: dicts that JSON can hold, with the names of KEY, `tokens` and `queries`.

    lines: those that are there. write: takes each list of new ones.
    """

    KEY = "task", "length", "index"

    def __init__(self, lines: Iterable[dict] = (), write: Callable[[list[dict]], None] = lambda lines: None):
        self._lines = {self._key(line): line for line in lines}
        self._write = write

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self._lines)

    def has(self, task: str, length: int, index: int) -> bool:
        """Whether a sample was asked."""
        return (task, length, index) in self._lines

    def one(self, task: str, length: int, index: int) -> dict:
        """A sample that was asked."""
        return self._lines[task, length, index]

    def missing(self, task: str, length: int, count: int) -> list[int]:
        """The numbers below `count` of the samples of a task at a length that were not asked."""
        return [index for index in range(count) if not self.has(task, length, index)]

    def add(self, lines: list[dict]) -> None:
        """Keeps samples."""
        self._lines |= {self._key(line): line for line in lines}
        self._write(lines)

    def of(self, task: str, length: int, count: int) -> list[dict]:
        """The first `count` samples of a task at a length, all of which are there."""
        return [self.one(task, length, index) for index in range(count)]

    def _key(self, line: dict) -> tuple:
        return tuple(line[name] for name in self.KEY)


def of_query(prompt: str, gold: tuple[str, ...], answer, chance: float, depth: float | None) -> dict:
    """What is kept of a query and the asking.Answer to it."""
    hashed = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    kept = {"prompt": hashed, "gold": list(gold), "answer": answer.text, "score": float(answer.score)}
    return kept | {"chance": chance, "depth": depth}
