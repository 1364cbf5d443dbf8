"""Collectives of a compiled program: the traffic that leaves each device, and the mesh axes along which it goes."""

import dataclasses
import itertools
import math
import re

import numpy as np

from experiments.hlo.loops import Count
from experiments.hlo.text import Instruction, Shape


def others(n: int) -> float:
    """What goes to each of n - 1 other devices, one by one."""
    return n - 1


def parts_of_others(n: int) -> float:
    """All of n parts but a device's own."""
    return (n - 1) / n


def parts_twice(n: int) -> float:
    """All parts but one, twice: a reduce-scatter and an all-gather of what it left."""
    return 2 * (n - 1) / n


def others_twice(n: int) -> float:
    """The n - 1 other devices, twice: a reduce-scatter and an all-gather."""
    return 2 * (n - 1)


def half(n: int) -> float:
    """The most of a ragged exchange: the array that results are put into is an operand as well."""
    return 0.5


def whole(n: int) -> float:
    """All of it, where there is another device."""
    return 1 if n > 1 else 0


# of the operand on each of n devices, the share that leaves the device; ring algorithms
SENT = {
    "all-gather": others,
    "reduce-scatter": parts_of_others,
    "all-reduce": parts_twice,
    "all-to-all": parts_of_others,
    "ragged-all-to-all": half,
    "collective-permute": whole,
}
# links of a ring that data crosses, where they do not depend on the pairs of devices
LINKS = {"all-gather": others, "reduce-scatter": others, "all-reduce": others_twice, "all-to-all": others}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Attributes:
      kind: a name in SENT.
      operands: on each device; several where the compiler combined several collectives.
      axes: the mesh axes along which the groups run, in the mesh's order; empty where each device is alone.
      group: devices in each group; for a permutation, devices along its axes.
      distance: for a permutation, the largest distance of a pair round the ring of its group, the shorter way; else 0.
      runs: in one run of the program.
      overlapped: whether it is asynchronous and the schedule has matmuls or kernels between its start and its end.
      op_name: see Instruction.op_name.
    """

    kind: str
    operands: tuple[Shape, ...]
    axes: tuple[str, ...]
    group: int
    distance: int
    runs: Count
    overlapped: bool
    op_name: str

    @property
    def links(self) -> int:
        """The number of links in a ring of the group that the data crosses one after another."""
        return LINKS[self.kind](self.group) if self.kind in LINKS else self.distance

    @property
    def elements(self) -> float:
        """Elements that leave each device in one run. (On a CPU, bfloat16 is sent as float32.)"""
        return SENT[self.kind](self.group) * sum(shape.elements for shape in self.operands)

    @property
    def bytes(self) -> float:
        """Bytes that leave each device in one run."""
        return SENT[self.kind](self.group) * sum(shape.bytes for shape in self.operands)


def span(instruction: Instruction, mesh: dict[str, int]) -> tuple[tuple[str, ...], int]:
    """(axes, group) of a collective, see Collective. mesh: the size of each axis.

    A program numbers devices in the order of `mesh.devices`, whichever devices these are.
    """
    axes, places = _places(instruction, mesh)
    return axes, math.prod(mesh[axis] for axis in axes) if _permutes(instruction) else places.shape[2]


def distance(instruction: Instruction, mesh: dict[str, int]) -> int:
    """The longest distance of a permutation, see Collective.distance; 0 for other collectives."""
    axes, places = _places(instruction, mesh)
    if not axes or not _permutes(instruction):
        return 0
    sizes = [mesh[axis] for axis in axes]
    index = np.ravel_multi_index([place for axis, place in zip(mesh, places, strict=True) if axis in axes], sizes)
    steps = np.diff(index) % math.prod(sizes)
    return int(np.minimum(steps, math.prod(sizes) - steps).max())


def _permutes(instruction):
    return instruction.opcode.startswith("collective-permute")


def _places(instruction, mesh):
    """(axes along which groups run, coordinates of their devices [mesh axes, groups, devices of a group])."""
    groups = _groups(instruction.rest, math.prod(mesh.values()))
    places = np.array(np.unravel_index(groups, tuple(mesh.values())))
    return tuple(axis for axis, place in zip(mesh, places, strict=True) if (place != place[:, :1]).any()), places


def _groups(text, devices):
    """The device numbers [groups, devices of a group], from any of the forms in which HLO writes them."""
    ids = np.arange(devices)
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", text):
        return np.array([list(map(int, group.split(","))) for group in re.findall(r"[\d,]*\d", match[1])])
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\S+?)(?:, |$)", text):
        return _arranged(ids, match[2]).reshape(_numbers(match[1]))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", text):
        return _along(_arranged(ids, match[2] or f"[{devices}]"), match[1], match[3])
    return ids[None]


def _numbers(text):
    return tuple(map(int, re.findall(r"\d+", text)))


def _arranged(ids, order):
    """The device numbers in an order such as "[2,4]T(1,0)" (reshaped, then transposed), or in one written out."""
    if not order.startswith("["):
        return np.array(_numbers(order))
    shape, _, permutation = order.partition("T")
    ids = ids.reshape(_numbers(shape))
    return (ids.transpose(_numbers(permutation)) if permutation else ids).reshape(-1)


def _along(ids, mesh, axes):
    """Groups along axes of the compiler's own mesh 'x'=8,'y'=2, or along parts: 'x':(2)4 is 4 devices below 2."""
    sizes = {name: int(size) for name, size in re.findall(r"([^,=]+)=(\d+)", mesh)}
    chosen = [
        (name, int(above or 1), int(size or sizes[name]))
        for name, above, size in re.findall(r"([^,:]+)(?::\((\d+)\)(\d+))?(?:,|$)", axes)
    ]
    shape, grouped = [], []
    for name, size in sizes.items():
        parts = [(above, above * part) for axis, above, part in chosen if axis == name]
        cuts = sorted({1, size, *itertools.chain(*parts)})
        for low, high in itertools.pairwise(cuts):
            grouped.append(any(a <= low and high <= b for a, b in parts))
            shape.append(high // low)
    order = sorted(range(len(shape)), key=lambda dim: grouped[dim])
    each = math.prod(n for n, group in zip(shape, grouped, strict=True) if group)
    return ids.reshape(shape).transpose(order).reshape(-1, each)
