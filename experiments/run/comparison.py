"""What experiments.extend keeps of a comparison: a line of JSON for every few rows read, from which it goes on later.

The first line says of which comparison the others are. A cell is what a method gets in a task at a length; a line holds
the counts of some of its rows (longctx/evals/by_row.py).
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from experiments.run.journal import Journal
from experiments.settings.tree import Settings
from longctx.checkpoints import identity
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError
from longctx.evals.batches import rows_at
from longctx.evals.by_row import Counts, RowTask, Summary
from longctx.evals.tasks.by_position import Losses
from longctx.evals.tasks.passkey import Passkeys

FILE = "extend.jsonl"
VERSION = 1  # of the rows and of what is counted; another one begins anew
# settings that change no number of a cell: all that they choose is which cells there are, and how they are computed
FREE = frozenset(
    (
        "name",
        "mesh",
        "attention",
        "memory",
        "log",
        "checkpoint",
        "extend.methods",
        "extend.lengths",
        "extend.tasks",
        "extend.tunings",
        "extend.rows",
        "eval.tasks",
        "eval.lengths",
        "eval.depths",
        "eval.samples",
        "model.remat",
    )
)
AS_TRAINED = "as trained"


def _passkeys(config: Settings, tokenizer: Tokenizer, held_out: Sequence) -> RowTask:
    return Passkeys(tokenizer, config.extend.rows, config.extend.depths, config.seed)


def _losses(config: Settings, tokenizer: Tokenizer, held_out: Sequence) -> RowTask:
    return Losses(held_out, tokenizer, config.eval.documents, config.seed)


# what a model that is given can be asked: (settings, tokenizer, held-out documents) -> RowTask
TASKS = {"passkey": _passkeys, "loss": _losses}
READS_TEXT = ("loss",)  # those that need held-out documents


class Cell(NamedTuple):
    """A task at a length, read by a method. how: the parameters, "as trained" or "tuned for N"."""

    task: str
    method: str
    how: str
    length: int


def batches(start: int, count: int, length: int) -> list[range]:
    """The rows from `start` to `count` in batches that are as large as evaluations have them, and as even as can be."""
    rows, most = count - start, rows_at(length)
    if rows <= 0:
        return []
    parts = -(-rows // most)
    parts = next((more for more in range(parts, 2 * parts) if rows % more == 0), parts)
    size = -(-rows // parts)
    return [range(first, min(first + size, count)) for first in range(start, count, size)]


class Records:
    """The lines of a comparison, read when it is made, and appended to.

    said: the first line, without "version". begun: whether there were any.

    Raises UserError where the file is of another comparison, or no such file.
    """

    def __init__(self, path: pathlib.Path, said: dict, active: bool):
        fields = (*Cell._fields, "first", "end", "counts")
        self._journal = Journal(path, said | {"version": VERSION}, fields, "experiments.extend", active)
        self.begun = self._journal.begun
        _check_same(self._journal)
        self.parts: dict[Cell, list[dict]] = {}
        for line in self._journal.lines:
            self.parts.setdefault(_cell_of(line), []).append(line)

    def done(self, cell: Cell) -> int:
        """The number of rows of a cell that are there."""
        return max((part["end"] for part in self.parts.get(cell, ())), default=0)

    def add(self, cell: Cell, rows: range, counts: Counts, seconds: float) -> None:
        """Appends a line about some rows of a cell."""
        line = cell._asdict() | {"first": rows.start, "end": rows.stop, "seconds": round(seconds, 3), "counts": counts}
        self.parts.setdefault(cell, []).append(line)
        self._journal.add([line])

    def counts(self, cell: Cell, task: RowTask) -> Counts:
        """The counts of all rows of a cell, of which there must be some."""
        return task.merged([part["counts"] for part in self.parts[cell]])

    def summary(self, cell: Cell, task: RowTask) -> Summary:
        """The value of a cell, of which there must be some rows."""
        return task.summary(self.counts(cell, task))

    def seconds(self, cell: Cell) -> float:
        """The seconds that a cell's rows took."""
        return round(sum(part["seconds"] for part in self.parts.get(cell, ())), 2)


def _cell_of(line: dict) -> Cell:
    return Cell(*(line[name] for name in Cell._fields))


def _check_same(journal: Journal) -> None:
    if found := journal.differing(frozenset(f"settings.{name}" for name in FREE)):
        found = {name.removeprefix("settings."): two for name, two in found.items()}
        raise UserError(
            f"{journal.path} holds another comparison: {identity.listed(found, 'there')}. Take these back to go on "
            "with it, or name another --workdir."
        )


class Pace:
    """Seconds that the work left takes, by the FLOPs that were counted of what was measured.

    Compiling takes a time of its own for each new shape, which is measured apart.
    """

    def __init__(self):
        self._run: dict[str, list[tuple[float, float]]] = {}  # by method: (FLOPs, seconds)
        self._compile: list[float] = []

    def add(self, method: str, flops: float, seconds: float, compiling: float) -> None:
        """Notes that FLOPs of a method took `seconds`, of which `compiling` went into a new shape (0: none was)."""
        self._run.setdefault(method, []).append((flops, max(seconds - compiling, 1e-3)))
        if compiling:
            self._compile.append(compiling)

    def left(self, work: list[tuple[str, float]], shapes: int) -> float:
        """The seconds of some work, as (method, FLOPs), with so many new shapes. Something must have been measured.

        A method's own pace counts where there is one: some visit fewer pairs of tokens than others, or more.
        """
        every = [pair for pairs in self._run.values() for pair in pairs]
        pace = {method: _pace(pairs) for method, pairs in self._run.items()}
        compiling = sum(self._compile) / len(self._compile) if self._compile else 0.0
        return sum(flops * pace.get(method, _pace(every)) for method, flops in work) + shapes * compiling


def _pace(pairs: list[tuple[float, float]]) -> float:
    """Seconds per FLOP, by the largest work that was measured: small ones are slowed by what surrounds them."""
    flops, seconds = max(pairs)
    return seconds / flops
