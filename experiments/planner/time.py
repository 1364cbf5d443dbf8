"""Predicted time of a step from what its program does, by the rates of hardware.targets.CHIPS. No measurement."""

import dataclasses

from experiments.hardware.targets import Target
from experiments.hlo import program
from experiments.hlo.program import Program
from experiments.planner.work import Work
from longctx.config import Config

ASSUMPTIONS = (
    "weight matmuls, attention's forward and its backward run at {matmul:.0%}, {forward:.0%} and {backward:.0%} of "
    "the {tflops:.0f} TFLOP/s peak, everything else beside them costs nothing",
    "bytes leave a device at {near:.0f} GB/s one way to near devices, {far:.0f} GB/s to other nodes, {to_host:.0f} "
    "GB/s to its host, without latencies",
    "collectives and copies that the schedule brackets around compute are hidden as far as there is compute, the "
    "others wait; copies of the host's count as bracketed",
    "every device has the same work; where a causal row lies contiguously on a ring, the last one's",
)


@dataclasses.dataclass(frozen=True)
class Link:
    """Traffic of one device over one kind of link in one step.

    Attributes:
      kind: of collective, or "to the host" or "from the host".
      overlapped: the fraction of the bytes that the schedule brackets around compute.
    """

    kind: str
    axes: tuple[str, ...]
    bytes: float
    overlapped: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Time:
    """Predicted seconds of one step, by what they are spent on.

    passes: over memory, between the others; 0 where they are taken to cost nothing.
    """

    matmuls: float
    attention_forward: float
    attention_backward: float
    links: tuple[Link, ...]
    passes: float = 0.0

    @property
    def compute(self) -> float:
        """Seconds of everything but links."""
        return self.matmuls + self.attention_forward + self.attention_backward + self.passes

    @property
    def exposed(self) -> float:
        """Seconds of link traffic that compute does not hide."""
        hidden = sum(link.seconds * link.overlapped for link in self.links)
        waited = sum(link.seconds * (1 - link.overlapped) for link in self.links)
        return waited + max(hidden - self.compute, 0.0)

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.exposed


def predict(config: Config, target: Target, work: Work, compiled: Program) -> Time:
    """The predicted Time of one step on the whole mesh."""
    chip, devices = target.chip, config.mesh.devices
    peak = chip.tflops * 1e12 * devices
    attention = _imbalance(config) / peak
    return Time(
        (work.matmuls + work.recomputed) / (peak * chip.matmul),
        work.forward * work.times * attention / chip.forward,
        work.backward * attention / chip.backward,
        tuple(_links(config, target, compiled)),
    )


def assumptions(target: Target) -> list[str]:
    """The assumptions behind a prediction, with the target's rates, for people to read."""
    chip = dataclasses.asdict(target.chip)
    gigabytes = {name: chip[name] / 1e9 for name in ("near", "far", "to_host")}
    return [text.format(**chip | gigabytes) for text in ASSUMPTIONS]


def _imbalance(config) -> float:
    """The busiest device's attention work divided by the mean."""
    shards = config.mesh.context_shards
    lockstep = config.attention.layout == "contiguous" and config.attention.strategy != "ulysses"
    return 2 * shards / (shards + 1) if lockstep and "causal" in config.model.mask else 1.0


def _links(config, target, compiled):
    groups = {}
    for collective in compiled.collectives:
        groups.setdefault((collective.kind, collective.axes), []).append(collective)
    for (kind, axes), group in sorted(groups.items()):
        if size := program.total(group, "bytes"):
            yield Link(kind, axes, size, program.overlap(group), size / rate(config, target, kind, axes))
    for to_host in (True, False):
        size = program.total((copy for copy in compiled.host_copies if copy.to_host == to_host), "bytes")
        if size:
            yield Link("to the host" if to_host else "from the host", (), size, 1.0, size / target.chip.to_host)


def rate(config: Config, target: Target, kind: str, axes: tuple[str, ...]) -> float:
    """Bytes per second that can leave a device along mesh axes. The last axis numbers devices fastest, node by node."""
    reach = 1
    for name, size in reversed(config.mesh.axes.items()):
        reach *= size
        if name == axes[0]:
            break
    if target.platform == "tpu":
        return target.chip.near * (1 if kind == "collective-permute" else 2)  # rings go round both ways
    return target.chip.near if reach <= target.chip.per_host else target.chip.far
