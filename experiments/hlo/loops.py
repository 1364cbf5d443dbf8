"""Trip counts of the loops in a compiled program.

CPU and GPU programs print most counts. TPU programs print none, but have `counter < constant` as the loop's condition.
A count that depends on data (attention's loops over the blocks that a mask leaves) is at most the length of an array
that the body reads at the counter, one part after another.
"""

import dataclasses
import enum

from experiments.hlo.text import Computation, Instruction, Module

_SAME = {"copy", "bitcast", "convert", "reshape", "copy-done", "copy-start"}


class Certainty(enum.IntEnum):
    """The certainty of a count that was read from a program's text."""

    EXACT = 0
    AT_MOST = 1
    UNKNOWN = 2


@dataclasses.dataclass(frozen=True)
class Count:
    """The number of times that an instruction runs. An UNKNOWN count has 1 in place of each unknown factor."""

    times: int = 1
    certainty: Certainty = Certainty.EXACT

    def __mul__(self, other: "Count") -> "Count":
        return Count(self.times * other.times, max(self.certainty, other.certainty))


@dataclasses.dataclass(frozen=True)
class _Linear:
    """An integer scale * carry[index] + offset in a loop; a constant where scale is 0."""

    offset: int
    scale: int = 0
    index: int = -1

    def __add__(self, other: "_Linear"):
        if self.scale and other.scale:
            return None
        return _Linear(self.offset + other.offset, self.scale + other.scale, max(self.index, other.index))

    def times(self, factor: int):
        """The integer multiplied by a constant."""
        return _Linear(self.offset * factor, self.scale * factor, self.index)


def trips(module: Module, around: Computation, loop: Instruction) -> Count:
    """The trip count of a `while` instruction in the computation `around`."""
    printed = loop.rest.partition('"known_trip_count":{"n":"')[2]
    if printed:
        return Count(int(printed[: printed.index('"')]))
    body = module.computations[loop.attribute("body")]
    comparison = _comparison(module, module.computations[loop.attribute("condition")])
    if comparison is None:
        return Count(certainty=Certainty.UNKNOWN)
    counter, bound, inclusive = comparison
    first, step = _first(module, around, loop, counter.index), _step(module, body, counter.index)
    last = bound if not bound.scale else _unchanged(module, around, loop, body, bound)
    if first is not None and step and last is not None:
        span = last.offset - counter.offset - first + inclusive
        return Count(max(0, -(-span // step)))
    longest = min(_lengths(module, body, counter.index), default=None)
    return Count(certainty=Certainty.UNKNOWN) if longest is None else Count(longest, Certainty.AT_MOST)


def _comparison(module, condition):
    """(counter, bound, inclusive) of a condition counter < bound, or <= with inclusive 1; None for other conditions."""
    root, computation, args = condition.root, condition, None
    while root.opcode in ("fusion", "call"):
        args = [_value(module, computation, name, args) for name in root.operands]
        computation = module.called(root)[0]
        root = computation.root
    sides = {"LT": (0, 1, 0), "LE": (0, 1, 1), "GT": (1, 0, 0), "GE": (1, 0, 1)}.get(root.attribute("direction"))
    if root.opcode != "compare" or sides is None:
        return None
    values = [_value(module, computation, name, args) for name in root.operands]
    counter, bound = values[sides[0]], values[sides[1]]
    return (counter, bound, sides[2]) if counter and bound and counter.scale == 1 else None


def _first(module, around, loop, index):
    """The constant carry[index] before the loop; None where it is not constant."""
    start = around.inputs(loop)[0]
    if start.opcode != "tuple":
        return None
    value = _value(module, around, start.operands[index])
    return value.offset if value and not value.scale else None


def _step(module, body, index):
    """The constant that an iteration adds to carry[index]; None where it is not constant."""
    after = _value(module, body, body.root.operands[index]) if body.root.opcode == "tuple" else None
    return after.offset if after and after.scale == 1 and after.index == index else None


def _unchanged(module, around, loop, body, bound):
    """The constant value of a bound that the loop carries along unchanged; None for other bounds."""
    first = _first(module, around, loop, bound.index)
    return _Linear(first + bound.offset) if first is not None and _step(module, body, bound.index) == 0 else None


def _lengths(module, computation, index, args=None):
    """Yields the number of steps that a loop's counter, as the start of a dynamic slice, can take in each dimension."""
    for instruction in computation:
        if instruction.opcode.startswith("dynamic-slice"):
            dims = computation.inputs(instruction)[0].shapes[0].dims
            sizes = map(int, instruction.attribute("dynamic_slice_sizes").split(","))
            for dim, size, name in zip(dims, sizes, instruction.operands[1:], strict=True):
                start = _value(module, computation, name, args)
                if start and start.index == index and start.scale == size < dim:
                    yield dim // size
        elif instruction.opcode in ("fusion", "fusion-start", "call", "async-start"):
            inner = [_value(module, computation, name, args) for name in instruction.operands]
            yield from _lengths(module, module.called(instruction)[0], index, inner)


def _value(
    module: Module, computation: Computation, name: str, args: list[_Linear | None] | None = None
) -> _Linear | None:
    """The integer scalar `name` as a linear function of the loop's carry; None where it is not one.

    args: in a fusion, the values of its parameters; None in a loop's body or condition, whose only parameter is the
    carry.
    """
    instruction = computation.instructions[name]
    value = lambda i: _value(module, computation, instruction.operands[i], args)
    match instruction.opcode:
        case "constant":
            return _Linear(int(instruction.arguments)) if instruction.arguments.lstrip("-").isdigit() else None
        case "parameter":
            return args[int(instruction.arguments)] if args else None
        case "get-tuple-element":
            return _element(module, computation, instruction, args)
        case "add":
            return a + b if (a := value(0)) and (b := value(1)) else None
        case "subtract":
            return a + b.times(-1) if (a := value(0)) and (b := value(1)) and not b.scale else None
        case "multiply":
            a, b = value(0), value(1)
            if not a or not b or a.scale and b.scale:
                return None
            return a.times(b.offset) if a.scale else b.times(a.offset)
        case "select":  # select(i < 0, i + n, i), as of an index that may count from the end
            return value(2)
        case "clamp":
            return value(1)
        case "fusion" | "call":
            called = module.called(instruction)[0]
            return _value(module, called, called.root.name, [value(i) for i in range(len(instruction.operands))])
    return value(0) if instruction.opcode in _SAME else None


def _element(module, computation, instruction, args):
    """The value of a get-tuple-element, see `_value`."""
    source, index = computation.inputs(instruction)[0], int(instruction.attribute("index"))
    match source.opcode:
        case "parameter" if args is None:
            return _Linear(0, 1, index)
        case "tuple":
            return _value(module, computation, source.operands[index], args)
        case "fusion":
            called = module.called(source)[0]
            inner = [_value(module, computation, name, args) for name in source.operands]
            return _value(module, called, called.root.operands[index], inner)
    return None
