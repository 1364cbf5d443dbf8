"""The work of one device in one run of a compiled program, with the trip counts of its loops applied."""

import dataclasses
import re
from collections.abc import Iterable

from experiments.hlo import collectives, loops, matmuls
from experiments.hlo.collectives import Collective
from experiments.hlo.loops import Certainty, Count
from experiments.hlo.text import HOST, Computation, Instruction, Module, Shape, parse

# A TPU program may run a collective within other fusions: one starts it, others go on with it while they compute, one
# ends it. Each of them has the collective in its text, with the same channel.
_START, _END = "AsyncCollectiveStart", "AsyncCollectiveDone"
# custom calls that compute nothing: memory, and promises to the compiler
_NO_KERNELS = {_START, _END, "AllocateBuffer", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked"}


@dataclasses.dataclass(frozen=True)
class Matmul:
    """A dot, a convolution or a library's product.

    Attributes:
      dtype: of the left operand, as HLO writes it.
      flops: of one run.
      runs: in one run of the program.
      op_name: see Instruction.op_name.
    """

    dtype: str
    flops: int
    runs: Count
    op_name: str


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A custom call to a kernel (Mosaic of Pallas, Triton, cuDNN), of which the text shows only the arrays.

    Attributes:
      name: the pallas_call's, where the compiler kept it.
      target: of the custom call.
      operands, results: on each device.
      runs: in one run of the program.
      op_name: see Instruction.op_name.
    """

    name: str
    target: str
    operands: tuple[Shape, ...]
    results: tuple[Shape, ...]
    runs: Count
    op_name: str

    @property
    def bytes(self) -> float:
        """Bytes of the operands and results."""
        return sum(shape.bytes for shape in self.operands + self.results)


@dataclasses.dataclass(frozen=True)
class HostCopy:
    """A copy between device memory and host memory.

    Attributes:
      to_host: the direction.
      bytes: of one run.
      runs: in one run of the program.
      overlapped: see Collective.
      op_name: see Instruction.op_name.
    """

    to_host: bool
    bytes: float
    runs: Count
    overlapped: bool
    op_name: str


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The cycles that the TPU compiler expects an instruction (a matmul, a fusion, a copy) to take.

    Kernels, collectives and asynchronous copies have no estimate.
    """

    cycles: int
    runs: Count
    op_name: str


@dataclasses.dataclass(frozen=True)
class Program:
    """The operations of a program by kind, each list in the order of the schedule.

    Of a conditional, each list takes the branch that has the most of its kind.
    """

    collectives: tuple[Collective, ...]
    matmuls: tuple[Matmul, ...]
    kernels: tuple[Kernel, ...]
    host_copies: tuple[HostCopy, ...]
    estimates: tuple[Estimate, ...]


def read(text: str, mesh) -> Program:
    """The Program in the text `compiled.as_text()` of the CPU, GPU or TPU compiler.

    mesh: the jax mesh that it was compiled for; only the names and sizes of its axes matter.

    Raises:
      ValueError: for a text that is no compiled program's, or whose program is for another number of devices.
    """
    reader = _Reader.of(text, mesh)
    items = reader.walk(reader.module.entry, Count(), False)
    return Program(**{name: tuple(_only(items, kind)) for name, (kind, _) in _LISTS.items()})


def chains(text: str, mesh, key) -> dict:
    """{key: (collectives, links)} that have to follow one another, for each key(collective) but None.

    Counts the longest chain of data dependences, along which only the collectives of that key count, loops as often as
    they run. For the arguments and errors see `read`.
    """
    reader = _Reader.of(text, mesh)
    return reader.chains(reader.module.entry, key)


def total(items: Iterable, field: str) -> float:
    """The sum over items of the attribute `field` times the number of runs."""
    return sum(getattr(item, field) * item.runs.times for item in items)


def overlap(items: Iterable) -> float:
    """The fraction of the bytes of collectives or host copies that are scheduled around matmuls or kernels."""
    items = list(items)
    return total((x for x in items if x.overlapped), "bytes") / (total(items, "bytes") or 1)


def phase(item) -> str:
    """ "forward", "recomputed" (by jax.checkpoint, in the backward) or "backward", by the names that autodiff gives."""
    if "rematted_computation" in item.op_name:
        return "recomputed"
    return "backward" if "transpose(" in item.op_name else "forward"


# the lists of a Program: their type, and the attribute that decides which branch of a conditional has the most
_LISTS = {
    "collectives": (Collective, "bytes"),
    "matmuls": (Matmul, "flops"),
    "kernels": (Kernel, "bytes"),
    "host_copies": (HostCopy, "bytes"),
    "estimates": (Estimate, "cycles"),
}


@dataclasses.dataclass
class _Reader:
    """The walk over a module's computations that collects the items of a Program."""

    module: Module
    mesh: dict[str, int]
    computing: set[str]  # computations with matmuls or kernels

    @classmethod
    def of(cls, text, mesh):
        """A reader of a program's text. Raises ValueError as `read` does."""
        module = parse(text)
        if mesh.size != module.partitions:
            raise ValueError(
                f"the program is for {module.partitions} devices, and the mesh {dict(mesh.shape)} has "
                f"{mesh.size}: give the mesh that it was compiled for."
            )
        return cls(module, dict(mesh.shape), _computing(module))

    def walk(self, computation: Computation, runs: Count, overlapped: bool) -> list:
        """The items of a computation that runs `runs` times; overlapped: whether an asynchronous call runs it."""
        bracketed, items = self.bracketed(computation), []
        for instruction in computation:
            if cycles := instruction.setting("estimated_cycles"):
                items.append(Estimate(int(cycles), runs, instruction.op_name))
            items += self.items(computation, instruction, runs, overlapped or instruction.name in bracketed)
        return items

    def items(self, computation, instruction, runs, overlapped) -> list:
        """The items of one instruction and of the computations that it calls."""
        kind, name = instruction.opcode.removesuffix("-start"), instruction.op_name
        if kind.endswith(("-done", "-update")):
            return []
        if kind in collectives.SENT:
            if "async_collective_fusion_config" in instruction.rest and not _calls(computation, _START):
                return []
            axes, group = collectives.span(instruction, self.mesh)
            distance = collectives.distance(instruction, self.mesh)
            kind = "reduce-scatter" if _scatters(computation) else kind
            return [
                Collective(kind, computation.operand_shapes(instruction), axes, group, distance, runs, overlapped, name)
            ]
        if kind == "while":
            body = self.module.computations[instruction.attribute("body")]
            return self.walk(body, runs * loops.trips(self.module, computation, instruction), overlapped)
        if kind == "conditional":
            return _largest([self.walk(c, runs, overlapped) for c in self.module.called(instruction)])
        if matmuls.is_matmul(instruction):
            dtype = computation.inputs(instruction)[0].shapes[0].dtype
            return [Matmul(dtype, matmuls.flops(computation, instruction), runs, name)]
        if _is_kernel(instruction):
            operands, kernel = computation.operand_shapes(instruction), re.sub(r"[.\d]+$", "", instruction.name)
            return [Kernel(kernel, instruction.target, operands, instruction.shapes, runs, name)]
        copied = _host_copy(computation, instruction)
        if copied:
            return [HostCopy(*copied, runs, overlapped, name)]
        inner = [item for c in self.module.called(instruction) for item in self.walk(c, runs, overlapped)]
        return [item if item.op_name else dataclasses.replace(item, op_name=name) for item in inner]

    def chains(self, computation: Computation, key) -> dict:
        """The chains of one computation: the longest that lead to each instruction, then the longest of these."""
        leading = {}
        for instruction in computation:
            before = _longest(leading[name] for name in instruction.operands)
            leading[instruction.name] = _added(before, self.own_chains(computation, instruction, key))
        return _longest(leading.values())

    def own_chains(self, computation, instruction, key) -> dict:
        """The chains inside one instruction."""
        if instruction.opcode == "while":
            times = loops.trips(self.module, computation, instruction).times
            body = self.chains(self.module.computations[instruction.attribute("body")], key)
            return {name: (times * steps, times * links) for name, (steps, links) in body.items()}
        if instruction.opcode in ("call", "conditional"):
            return _longest(self.chains(called, key) for called in self.module.called(instruction))
        own = _only(self.items(computation, instruction, Count(), False), Collective)
        links = {key(collective): (1, collective.links) for collective in own}
        return {name: chain for name, chain in links.items() if name is not None}

    def bracketed(self, computation: Computation) -> set[str]:
        """Names of the asynchronous starts with matmuls or kernels scheduled before their ends."""
        order = list(computation)
        busy = [_computes(instruction, self.computing) for instruction in order]
        ends = {
            self.channel(i, _END) or i.operands[0]: at
            for at, i in enumerate(order)
            if i.opcode.endswith("-done") or self.channel(i, _END)
        }
        starts = {
            at: self.channel(i, _START) or i.name
            for at, i in enumerate(order)
            if i.opcode.endswith("-start") and i.setting("is_sync") != "true" or self.channel(i, _START)
        }
        return {order[at].name for at, key in starts.items() if any(busy[at + 1 : ends.get(key, len(order))])}

    def channel(self, instruction: Instruction, target: str) -> str | None:
        """The channel of the collective in a fusion that calls `target` (_START or _END); None for others."""
        inner = self.module.called(instruction) if instruction.opcode == "fusion" else []
        parts = (i for c in inner if _calls(c, target) for i in c if i.opcode in collectives.SENT)
        return next((i.attribute("channel_id") for i in parts), None)


def _longest(chains):
    """The longest chain for each key."""
    longest = {}
    for chain in chains:
        for name, links in chain.items():
            longest[name] = max(links, longest.get(name, links))
    return longest


def _added(before, own):
    """The chains `before` with the chains `own` appended."""
    add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))
    return before | {name: add(before[name], chain) if name in before else chain for name, chain in own.items()}


def _computing(module):
    """Names of the computations that run matmuls or kernels; a computation precedes its callers in the text."""
    names = set()
    for computation in module.computations.values():
        if any(_computes(instruction, names) for instruction in computation):
            names.add(computation.name)
    return names


def _computes(instruction, computing):
    return matmuls.is_matmul(instruction) or _is_kernel(instruction) or not computing.isdisjoint(instruction.called)


def _scatters(computation):
    """Whether a fusion is a reduce-scatter, which TPU programs write as all-reduces whose results are sliced."""
    results = computation.inputs(computation.root) if computation.root.opcode == "tuple" else [computation.root]
    return {i.opcode for i in results} == {"dynamic-slice"} and any(i.opcode == "all-reduce" for i in computation)


def _calls(computation, target):
    return any(i.opcode == "custom-call" and i.target == target for i in computation)


def _is_kernel(instruction):
    return (
        instruction.opcode == "custom-call"
        and not matmuls.is_matmul(instruction)
        and instruction.target not in _NO_KERNELS
    )


def _host_copy(computation, instruction):
    """(to_host, bytes) of a copy between two memories, or None."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode not in ("copy", "slice", "dynamic-slice", "dynamic-update-slice"):
        return None
    source, *others = (operand.shapes[0] for operand in computation.inputs(instruction))
    before = len(others) + 1 if "slice-start" in instruction.opcode else 0  # its type repeats the operands
    result = instruction.shapes[before]
    if opcode == "dynamic-update-slice":
        return (True, others[0].bytes) if source.space == HOST != others[0].space else None
    return (result.space == HOST, result.bytes) if (source.space == HOST) != (result.space == HOST) else None


def _largest(branches):
    """The items of a conditional: for each kind those of the branch with the most, run at most that often."""
    largest = [
        max((list(_only(items, kind)) for items in branches), key=lambda items, size=size: total(items, size))
        for kind, size in _LISTS.values()
    ]
    at_most = Count(certainty=Certainty.AT_MOST)
    return [dataclasses.replace(item, runs=item.runs * at_most) for items in largest for item in items]


def _only(items, kind):
    return (item for item in items if isinstance(item, kind))
