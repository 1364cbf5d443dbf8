"""The bytes that leave each device in one step, compiled for a target, beside their closed form."""

import collections
import dataclasses
import re
import time

from experiments.hardware import targets
from experiments.hardware.targets import Target
from experiments.hlo import program
from experiments.hlo.loops import Certainty
from experiments.meter import closed, step_program
from experiments.meter import rows as meter_rows
from experiments.settings import checks
from longctx import meshes, training
from longctx.balance import Balance
from longctx.config import Config
from longctx.context_parallel import api as context_parallel
from longctx.context_parallel.cost import Load, Sent
from longctx.data.curriculum import Stage
from longctx.model import transformer

PARTS = ("attention", "layers", "rest")  # "layers": a layer without its attention
PHASES = ("forward", "recomputed", "backward", "step")
_SCOPES = {"attention": context_parallel.SCOPE, "layers": transformer.SCOPE}


@dataclasses.dataclass(frozen=True)
class Row:
    """The collectives of one kind over the same axes in one step: in the program, and in closed form.

    Attributes:
      part: a name in PARTS.
      phase: of hlo.program.phase; "step" where the backward is not autodiff's, and phases cannot be told apart.
      load: the traffic that leaves each device; None where the program has none.
      steps, hops: see cost.Sent, along the longest chain of data dependences.
      certainty: of the loop counts in the program.
      overlap: the fraction of the bytes that the schedule brackets around compute; None on simulated devices, whose
        collectives wait.
      closed: the closed form; None where it has no such collective.
    """

    part: str
    phase: str
    kind: str
    axes: tuple[str, ...]
    load: Load | None
    steps: float | None
    hops: float | None
    certainty: Certainty
    overlap: float | None
    closed: Sent | None

    @property
    def ratio(self) -> float | None:
        """Elements in the program divided by elements in closed form; None where either is missing."""
        both = self.load and self.closed
        return self.load.elements / self.closed.load.elements if both else None


@dataclasses.dataclass(frozen=True)
class Meter:
    """The traffic of one step.

    Attributes:
      stage: the longest of the curriculum, whose step was compiled.
      balance: of attention over the stage's rows; None where it was not measured.
    """

    config: Config
    target: Target
    stage: Stage
    rows: tuple[Row, ...]
    seconds_to_compile: float
    balance: Balance | None = None

    def loads(self, part: str, phase: str) -> tuple[Load, Load]:
        """(load in the program, load in closed form) per layer, or per step for the part "rest"."""
        rows = [row for row in self.rows if (row.part, row.phase) == (part, phase)]
        total = lambda loads: 1 / self.times(part) * sum(loads, Load(0, 0))
        return total(row.load for row in rows if row.load), total(row.closed.load for row in rows if row.closed)

    def times(self, part: str) -> int:
        """The number of times that a step runs a part: once for "rest", else once per layer."""
        return 1 if part == "rest" else self.config.model.layers


def measure(config: Config, target: Target, lengths: str | None = None) -> Meter:
    """The Meter of the longest stage.

    lengths: a name in meter.rows.LENGTHS, the documents over which balance is measured; None: not measured. Raises
    UserError for settings that do not go together, or do not fit the target.
    """
    stages = checks.check_settings(config)
    stage = max(stages, key=lambda stage: stage.seq_len)
    targets.check_devices(config.mesh, target)
    start, mesh = time.monotonic(), meshes.make(config.mesh, target.devices)
    text = step_program.compiled(config, stage, stages, mesh, target).as_text()
    expected = _closed(config, stage, mesh, target)
    key, groups = lambda collective: _key(config, expected, collective), collections.defaultdict(list)
    for collective in program.read(text, mesh).collectives:
        if collective.elements:
            groups[key(collective)].append(collective)
    chains = program.chains(text, mesh, key)
    rows = [
        _row(name, groups.get(name, []), chains.get(name), expected.get(name), target)
        for name in groups.keys() | expected.keys()
    ]
    order = lambda row: (PARTS.index(row.part), PHASES.index(row.phase), row.kind, row.axes)
    spent, balance = time.monotonic() - start, None
    if lengths and config.mesh.context_shards > 1:
        balance = meter_rows.measured(config, stage, meter_rows.of_lengths(config, stage, lengths))
    return Meter(config, target, stage, tuple(sorted(rows, key=order)), spent, balance)


def _key(config, expected, collective):
    """(part, phase, kind, axes) of the Row that a collective belongs to."""
    kind, axes = collective.kind, collective.axes
    part = next((part for part, scope in _SCOPES.items() if re.search(rf"\b{scope}\b", collective.op_name)), "rest")
    phase = program.phase(collective) if config.memory.backward == "autodiff" else "step"
    if part != "attention":
        if "tensor" in axes:
            return part, phase, kind, ("tensor",)
        if part == "rest" and phase == "forward" and kind != "all-gather":
            phase = "backward"  # gradients, which programs for GPUs do not name, and a few scalars
        # compilers sum over one axis after another, or over all at once
        return part, phase, kind, closed.weight_axes(config)
    # half a ring over two axes is a step along one of them
    alike = [name for name in expected if name[:3] == (part, phase, kind) and set(axes) <= set(name[3])]
    return min(alike, key=lambda name: len(name[3]), default=(part, phase, kind, axes))


def _closed(config, stage, mesh, target) -> dict:
    """{(part, phase, kind, axes): Sent} in closed form, empty where the backward is not autodiff's."""
    if config.memory.backward != "autodiff":
        return {}
    sends = {("attention", phase): sends for phase, sends in closed.attention(config, stage).items()}
    sends |= closed.weights(config, training.abstract_state(config, mesh)["params"], target.platform)
    return {(*name, sent.kind, sent.axes): sent for name, group in sends.items() for sent in group}


def _row(name, group, chain, expected, target) -> Row:
    """The Row of the collectives in `group`, which may be empty, and of their closed form `expected`, or None."""
    load = Load(program.total(group, "elements"), program.total(group, "bytes")) if group else None
    steps, hops = chain if group and name[0] == "attention" else (None, None)
    overlap = program.overlap(group) if group and target.platform != "cpu" else None
    certainty = max((collective.runs.certainty for collective in group), default=Certainty.EXACT)
    return Row(*name, load, steps, hops, certainty, overlap, expected)
