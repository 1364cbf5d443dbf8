"""The reading of cells, shortest length first: rows go through a predictor, their counts into the records, a line each
to whoever waits."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from experiments.planner.work import work
from experiments.run.comparison import AS_TRAINED, Cell, Pace, Records, batches
from experiments.run.progress import duration
from experiments.settings.tree import Settings
from longctx import training
from longctx.config import ModelConfig
from longctx.evals.by_row import Counts, RowTask
from longctx.evals.predictor import no_more, predictor

# jax's names for these times; that of tracing counts inner functions twice
COMPILING = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"


class Way(NamedTuple):
    """A way to read longer rows. how: the parameters in a word; settings: length -> the ModelConfig that is read by."""

    method: str
    how: str
    settings: Callable[[int], ModelConfig]


class Piece(NamedTuple):
    """Rows of a cell that are read at once."""

    cell: Cell
    way: Way
    rows: range


class Reader:
    """Reads the cells that are not in the records yet.

    Ways that come to the same settings at a length, as scalings do inside the trained one, are read once.

    groups: ways that read by the same parameters, in the order in which these come. counts: a task's rows at a length.
    """

    def __init__(self, config: Settings, mesh, tasks: dict[str, RowTask], groups: list[list[Way]], records: Records):
        self.config, self.mesh, self.tasks, self.groups, self.records = config, mesh, tasks, groups, records
        self.counts = {(name, n): task.count(n) for name, task in tasks.items() for n in sorted(config.extend.lengths)}
        self._pace, self._shapes, self._compiled, self._work, self._read = Pace(), set(), Compiled(), {}, {}

    def open(self, group: list[Way] | None = None) -> list[Piece]:
        """What is not read yet, of a group or of all, in the order of reading."""
        return [
            Piece(cell, way, rows)
            for ways in (self.groups if group is None else [group])
            for cell, way in self.cells(ways)
            for rows in batches(self.records.done(cell), self.counts[cell.task, cell.length], cell.length)
        ]

    def cells(self, group: list[Way]) -> Iterator[tuple[Cell, Way]]:
        """Yields every cell of a group that has rows, with its way, shortest first."""
        for length in sorted(self.config.extend.lengths):
            for name in self.tasks:
                if self.counts[name, length]:
                    yield from ((Cell(name, way.method, way.how, length), way) for way in group)

    def plan(self) -> Iterator[str]:
        """Yields a line about the work, and one for each task that has no rows at a length."""
        pieces, new = self.open(), self._new()
        cells, every = {piece.cell for piece in pieces}, sum(len(list(self.cells(group))) for group in self.groups)
        flops, rows = sum(map(self._flops, new)), sum(len(piece.rows) for piece in new)
        before = f"; {every - len(cells)} others are there" if len(cells) < every else ""
        yield f"{len(cells)} cells to read: {rows:,} rows, {flops:.2g} FLOPs{before}"
        for (name, length), count in self.counts.items():
            if not count:
                yield f"{name} has no rows of {length:,} tokens: {self.tasks[name].why_none}"

    def read(self, params, group: list[Way]) -> None:
        """Reads what is open of a group, whose parameters `params` are."""
        predictors: dict[ModelConfig, Callable] = {}
        with self._compiled:
            for piece in self.open(group):
                model, start = piece.way.settings(piece.cell.length), time.monotonic()
                if model not in predictors:
                    settings = dataclasses.replace(self.config, model=model)
                    predictors[model] = predictor(settings, self.mesh, params, model.rope, no_more)
                first, same = not self._read, _same(piece)
                if same not in self._read:
                    self._read[same] = self._counts(piece, predictors[model])
                seconds = time.monotonic() - start
                self.records.add(piece.cell, piece.rows, self._read[same], seconds)
                self._say(piece, seconds, first)

    def _counts(self, piece: Piece, predict: Callable) -> Counts:
        """The counts of some rows, whose time is noted."""
        cell, start, compiled = piece.cell, time.monotonic(), self._compiled.seconds
        batch, counted = self.tasks[cell.task].rows(cell.length, piece.rows)
        counts = counted(predict(batch))
        seconds, compiling = time.monotonic() - start, self._compiled.seconds - compiled
        self._pace.add(cell.method, self._flops(piece), seconds, compiling)
        self._shapes.add(_shape(piece))
        return counts

    def _say(self, piece: Piece, seconds: float, first: bool) -> None:
        left = self._left()
        if first and left:
            what = "more for all of it, as these rows and the FLOPs of the others say"
            print(f"about {duration(left)} {what}", flush=True)
        print(self._line(piece, seconds) + (f", {duration(left)} left" if left else ""), flush=True)

    def _line(self, piece: Piece, seconds: float) -> str:
        cell, count = piece.cell, self.counts[piece.cell.task, piece.cell.length]
        summary = self.records.summary(cell, self.tasks[cell.task])
        how = "" if cell.how == AS_TRAINED else f", {cell.how}"
        rows = "" if piece.rows.stop == count else f", {piece.rows.stop} of {count} rows"
        return f"{cell.task} at {cell.length:,}, {cell.method}{how}: {summary.words}{rows}; {duration(seconds)}"

    def _left(self) -> float:
        """The seconds that what is open takes, without trainings."""
        pieces = self._new()
        shapes = {_shape(piece) for piece in pieces} - self._shapes
        return self._pace.left([(piece.cell.method, self._flops(piece)) for piece in pieces], len(shapes))

    def _new(self) -> list[Piece]:
        """What is open and not to be taken from what has been read the same way."""
        return list({_same(piece): piece for piece in self.open() if _same(piece) not in self._read}.values())

    def _flops(self, piece: Piece) -> float:
        model, length = piece.way.settings(piece.cell.length), piece.cell.length
        if (model, length) not in self._work:
            of_step = work(dataclasses.replace(self.config, model=model), self._abstract, length, 1)
            self._work[model, length] = of_step.matmuls / 3 + of_step.forward
        return len(piece.rows) * self._work[model, length]

    @functools.cached_property
    def _abstract(self) -> dict:
        return training.abstract_state(self.config, self.mesh)["params"]


def _same(piece: Piece) -> tuple:
    """What the counts of some rows depend on: the parameters, the settings, the rows."""
    parameters = AS_TRAINED if piece.cell.how == AS_TRAINED else piece.cell.method
    return parameters, piece.way.settings(piece.cell.length), piece.cell.task, piece.cell.length, piece.rows


def _shape(piece: Piece) -> tuple:
    """What a program is compiled for."""
    return piece.way.settings(piece.cell.length), len(piece.rows), piece.cell.length


class Compiled:
    """The seconds that jax has traced and compiled for, while this is a context."""

    def __init__(self):
        self.seconds = 0.0

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **_) -> None:
        self.seconds += duration_secs if event in COMPILING else 0.0
