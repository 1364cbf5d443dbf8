"""One config's step compiled for one target, and the bytes that leave each device in it, beside their closed form."""

import collections
import dataclasses
import re
import time

from experiments.hardware import targets
from experiments.hardware.targets import Target
from experiments.hlo import program
from experiments.hlo.loops import Known
from experiments.meter import closed, step_program
from experiments.meter import rows as of_rows
from experiments.settings import checks
from longctx import meshes, train_step
from longctx.balance import Balance
from longctx.config import Config
from longctx.context_parallel import api as context_parallel
from longctx.context_parallel.cost import Load, Sent
from longctx.data.curriculum import Stage
from longctx.model import transformer

PARTS = ("attention", "layers", "rest")  # "layers": what is not attention in them
PHASES = ("forward", "recomputed", "backward", "step")
_SCOPES = {"attention": context_parallel.SCOPE, "layers": transformer.SCOPE}


@dataclasses.dataclass(frozen=True)
class Row:
    """Collectives of one kind over some axes, in one step: in the program, and in closed form. None where not there.

    Attributes:
      phase: of hlo.program.phase; "step" where the backward is not autodiff's, and phases cannot be told apart.
      load: what leaves each device.
      steps, hops: as of cost.Sent, along the longest chain of data.
      known: how much the program tells of how often its loops run.
      overlap: of the bytes, the share that the schedule brackets around compute; None on simulated devices, whose
        collectives wait.
    """

    part: str
    phase: str
    kind: str
    axes: tuple[str, ...]
    load: Load | None
    steps: float | None
    hops: float | None
    known: Known
    overlap: float | None
    closed: Sent | None

    @property
    def ratio(self) -> float | None:
        """Elements in the program by those of the closed form."""
        both = self.load and self.closed
        return self.load.elements / self.closed.load.elements if both else None


@dataclasses.dataclass(frozen=True)
class Meter:
    """What a step moves. stage: of the curriculum, its longest. balance: of its rows; None where none was asked for."""

    config: Config
    target: Target
    stage: Stage
    rows: tuple[Row, ...]
    seconds_to_compile: float
    balance: Balance | None = None

    def loads(self, part: str, phase: str) -> tuple[Load, Load]:
        """In the program, in closed form: of a layer, or of a step outside of them."""
        rows = [row for row in self.rows if (row.part, row.phase) == (part, phase)]
        total = lambda found: 1 / self.times(part) * sum(found, Load(0, 0))
        return total(row.load for row in rows if row.load), total(row.closed.load for row in rows if row.closed)

    def times(self, part: str) -> int:
        """How often a step has what is shown of a part."""
        return 1 if part == "rest" else self.config.model.layers


def measure(config: Config, target: Target, lengths: str | None = None) -> Meter:
    """That of the longest stage; lengths: of documents that its balance is of, see meter.rows.

    Raises UserError for settings that do not go together, or not with the target.
    """
    stages = checks.check_settings(config)
    stage = max(stages, key=lambda one: one.seq_len)
    targets.check_devices(config.mesh, target)
    start, mesh = time.monotonic(), meshes.make(config.mesh, target.devices)
    text = step_program.compiled(config, stage, stages, mesh, target).as_text()
    expected = _closed(config, stage, mesh, target)
    key, found = lambda one: _key(config, expected, one), collections.defaultdict(list)
    for one in program.read(text, mesh).collectives:
        if one.elements:
            found[key(one)].append(one)
    chains = program.chains(text, mesh, key)
    rows = [
        _row(name, found.get(name, []), chains.get(name), expected.get(name), target)
        for name in found.keys() | expected.keys()
    ]
    place = lambda row: (PARTS.index(row.part), PHASES.index(row.phase), row.kind, row.axes)
    spent, cut = time.monotonic() - start, config.mesh.context_shards > 1
    even = of_rows.measured(config, stage, of_rows.of_lengths(config, stage, lengths)) if lengths and cut else None
    return Meter(config, target, stage, tuple(sorted(rows, key=place)), spent, even)


def _key(config, expected, one):
    part = next((part for part, scope in _SCOPES.items() if re.search(rf"\b{scope}\b", one.op_name)), "rest")
    phase = program.phase(one) if config.memory.backward == "autodiff" else "step"
    if part != "attention":
        if "tensor" in one.axes:
            return part, phase, one.kind, ("tensor",)
        if part == "rest" and phase == "forward" and one.kind != "all-gather":
            phase = "backward"  # gradients, which programs for GPUs do not name, and a few scalars
        # compilers sum over one axis after another, or over all
        return part, phase, one.kind, closed.share_axes(config)
    # half a ring over two axes is a step along one of them
    alike = [name for name in expected if name[:3] == (part, phase, one.kind) and set(one.axes) <= set(name[3])]
    return min(alike, key=lambda name: len(name[3]), default=(part, phase, one.kind, one.axes))


def _closed(config, stage, mesh, target) -> dict:
    if config.memory.backward != "autodiff":
        return {}
    found = {("attention", phase): sents for phase, sents in closed.attention(config, stage).items()}
    found |= closed.weights(config, train_step.abstract_state(config, mesh)["params"], target.platform)
    return {(*name, one.kind, one.axes): one for name, sents in found.items() for one in sents}


def _row(name, found, chain, expected, target) -> Row:
    load = Load(program.total(found, "elements"), program.total(found, "bytes")) if found else None
    steps, hops = chain if found and name[0] == "attention" else (None, None)
    overlap = program.overlap(found) if found and target.platform != "cpu" else None
    return Row(*name, load, steps, hops, max((one.runs.known for one in found), default=Known.EXACT), overlap, expected)
