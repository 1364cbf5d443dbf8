"""The operations of a program compiled for CPUs, by what their time goes into: products, and passes over memory.

A pass is an instruction, mostly a fusion, that reads arrays and writes others. What it only reads a slice of, or writes
a slice into, counts as that slice.
"""

import dataclasses
import re

from experiments.hlo import loops, matmuls
from experiments.hlo.loops import Count
from experiments.hlo.text import Computation, Instruction, Module, parse

# instructions that move no bytes of their own
_FREE = frozenset("parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id".split())
_WHOLE = frozenset(("bitcast", "reshape"))  # the same array under another type
_SLICED = frozenset(("dynamic-slice", "gather", "slice"))
_COSTLY = frozenset("exponential exponential-minus-one log log-plus-one tanh logistic sine cosine power erf".split())
_LAYOUT = re.compile(r"\{([\d,]*)")


@dataclasses.dataclass(frozen=True)
class Form:
    """What tells products apart in time: dtypes as HLO writes them, and dimensions, the slowest in memory first.

    contracted, batch: the dimensions of the left and of the right side.
    """

    dtype: str
    result: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product. flops: of one run; runs: in one run of the program; op_name: see Instruction.op_name."""

    form: Form
    flops: int
    runs: Count
    op_name: str


@dataclasses.dataclass(frozen=True)
class Pass:
    """A pass over memory. bytes, costly: read or written, and exponentials and the like, in one run; see Product."""

    bytes: float
    costly: int
    runs: Count
    op_name: str


def read(text: str) -> list[Product | Pass]:
    """The operations in the text of a compiled program, in its order. Raises ValueError for another text."""
    module = parse(text)
    return _walk(module, module.entry, Count(), "")


def _walk(module: Module, computation: Computation, runs: Count, name: str) -> list[Product | Pass]:
    """The operations of a computation that runs so often; name: where it is called, for those without a name."""
    found = []
    for instruction in computation:
        own = instruction.op_name or name
        if instruction.opcode == "while":
            body = module.computations[instruction.attribute("body")]
            found += _walk(module, body, runs * loops.trips(module, computation, instruction), own)
        elif instruction.opcode == "conditional":
            branches = [_walk(module, called, runs, own) for called in module.called(instruction)]
            found += max(branches, key=len)
        elif instruction.opcode == "call":
            found += [item for called in module.called(instruction) for item in _walk(module, called, runs, own)]
        elif instruction.opcode not in _FREE:
            found += _operation(module, computation, instruction, runs, own)
    return found


def _operation(module: Module, computation: Computation, instruction: Instruction, runs: Count, name: str):
    """The products of an instruction; where there are none, the pass that it is."""
    inner = module.called(instruction) if instruction.opcode == "fusion" else []
    places = [(computation, instruction)] + [(called, each) for called in inner for each in called]
    products = [(where, each) for where, each in places if each.opcode == "dot"]
    if products:
        return [Product(_form(*place), matmuls.flops(*place), runs, name) for place in products]
    costly = sum(each.shapes[0].elements for _, each in places if each.opcode in _COSTLY)
    moved = _moved_by_fusion(computation, instruction, inner[0]) if inner else _moved(computation, instruction)
    return [Pass(moved, costly, runs, name)]


def _moved(computation: Computation, instruction: Instruction) -> float:
    """Bytes that an instruction by itself reads and writes."""
    written = sum(shape.bytes for shape in instruction.shapes)
    if instruction.opcode in _SLICED:
        return 2 * written
    if instruction.opcode == "dynamic-update-slice":
        return 2 * computation.inputs(instruction)[1].shapes[0].bytes
    return written + sum(shape.bytes for shape in computation.operand_shapes(instruction))


def _moved_by_fusion(computation: Computation, instruction: Instruction, inner: Computation) -> float:
    """Bytes that a fusion reads and writes; inner: what it computes."""
    users: dict[str, list[Instruction]] = {}
    for each in inner:
        for operand in each.operands:
            users.setdefault(operand, []).append(each)
    results = inner.inputs(inner.root) if inner.root.opcode == "tuple" else [inner.root]
    written = sum(_written(inner, result) for result in results)
    return written + sum(_read(inner, users, each) for each in inner if each.opcode == "parameter")


def _written(inner: Computation, result: Instruction) -> float:
    """Bytes of a fusion's result that are written: of an array that is updated in place, the update."""
    while result.opcode in _WHOLE:
        (result,) = inner.inputs(result)
    if result.opcode == "dynamic-update-slice":
        return inner.inputs(result)[1].shapes[0].bytes
    return sum(shape.bytes for shape in result.shapes)


def _read(inner: Computation, users: dict[str, list[Instruction]], array: Instruction) -> float:
    """Bytes that a fusion reads of an array in it."""
    read = 0.0
    for user in users.get(array.name, ()):
        if user.opcode in _WHOLE:
            read += _read(inner, users, user)
        elif user.opcode in _SLICED and user.operands[0] == array.name:
            read += user.shapes[0].bytes
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != array.name:
            return array.shapes[0].bytes
    return min(read, array.shapes[0].bytes)


def _form(computation: Computation, dot: Instruction) -> Form:
    """The Form of a dot."""
    sides = computation.inputs(dot)[:2]
    orders = [_order(side) for side in sides]
    left, right = (tuple(side.shapes[0].dims[i] for i in order) for side, order in zip(sides, orders, strict=True))
    dims = lambda kind: tuple(
        tuple(order.index(int(dim)) for dim in re.findall(r"\d+", dot.attribute(f"{side}_{kind}_dims") or ""))
        for side, order in zip(("lhs", "rhs"), orders, strict=True)
    )
    return Form(sides[0].shapes[0].dtype, dot.shapes[0].dtype, left, right, dims("contracting"), dims("batch"))


def _order(array: Instruction) -> list[int]:
    """The dimensions of an array from the slowest to the fastest in memory."""
    layout = _LAYOUT.search(array.type)
    found = [int(dim) for dim in layout[1].split(",") if dim][::-1] if layout else []
    return found or list(range(len(array.shapes[0].dims)))
