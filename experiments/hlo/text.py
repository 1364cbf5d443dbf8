"""A parser of a compiled program's text (`compiled.as_text()`, of any backend) into computations of instructions."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

HOST = 5  # memory space of pinned host memory, of TPUs and of GPUs
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_HEADER = re.compile(r"(ENTRY )?%?([^\s(]+) .*\{$")
_INSTRUCTION = re.compile(r"  (?:ROOT )?%(\S+) = +(.*)", re.S)
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([^\s,()]+)")
_CALLED = re.compile(r"\b(?:calls|body|true_computation|false_computation)=%?([^\s,}]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Dtype (as HLO writes it), dimensions and memory space (0: the device's own) of an array."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        return self.elements * bits(self.dtype) / 8


def bits(dtype: str) -> int:
    """Bits of one element: the first number in an HLO dtype (16 in bf16, 8 in f8e4m3fn, 4 in s4), or 8 for pred."""
    return _BITS[dtype] if dtype in _BITS else int(re.search(r"\d+", dtype)[0])


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction, written `%name = type opcode(arguments), attributes`.

    Attributes:
      type: of the result, as written.
      rest: the text from the arguments on, as written.
    """

    name: str
    type: str
    opcode: str
    rest: str

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of the result, a tuple's parts in a row."""
        return _shapes(self.type)

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the operands."""
        return tuple(_NAME.findall(self.arguments))

    @functools.cached_property
    def arguments(self) -> str:
        """The text in parentheses: names of operands, the value of a constant, or the number of a parameter."""
        depth = 1
        for parenthesis in re.finditer(r"[()]", self.rest):
            depth += 1 if parenthesis[0] == "(" else -1
            if not depth:
                return self.rest[: parenthesis.start()]
        return self.rest

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that a fusion, a call, a loop (its body) or a conditional runs."""
        branches = _BRANCHES.search(self.rest)
        if branches:
            return tuple(name.strip().lstrip("%") for name in branches[1].split(","))
        if self.opcode == "call":
            return (self.attribute("to_apply"),)
        return tuple(_CALLED.findall(self.rest)) if "=%" in self.rest else ()

    def attribute(self, name: str) -> str | None:
        """The value of `name=...`, up to a comma or space, or the text between the braces of `name={...}`."""
        match = re.search(rf"\b{name}=(?:\{{([^{{}}]*)\}}|%?([^\s,{{}}]+))", self.rest)
        return match and (match[1] if match[1] is not None else match[2])

    def setting(self, name: str) -> str | None:
        """The value of `"name":...` in the backend's own settings: a number, a word or a list, as written."""
        match = re.search(rf'"{name}":(\[[^\]]*\]|"[^"]*"|\w+)', self.rest)
        return match and match[1].strip('"')

    @property
    def target(self) -> str:
        """The target of a custom call."""
        return re.search(r'custom_call_target="([^"]*)"', self.rest)[1]

    @property
    def op_name(self) -> str:
        """The place in the traced program; holds "transpose(" in a backward and "rematted" in recomputation."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions, in the order of the schedule where there is one; the root need not be the last."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    def inputs(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results are the operands."""
        return [self.instructions[name] for name in instruction.operands]

    def operand_shapes(self, instruction: Instruction) -> tuple[Shape, ...]:
        """Shapes of all operands, tuples' parts in a row."""
        return tuple(shape for operand in self.inputs(instruction) for shape in operand.shapes)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program. partitions: the number of devices that run it."""

    computations: dict[str, Computation]
    entry: Computation
    partitions: int

    def called(self, instruction: Instruction) -> list[Computation]:
        """The computations that an instruction runs."""
        return [self.computations[name] for name in instruction.called]


def parse(text: str) -> Module:
    """The Module in a program's text. Raises ValueError for a text without an entry computation."""
    computations, entry, name, lines = {}, None, None, []
    for line in text.splitlines():
        if name is None:
            header = _HEADER.match(line) if "->" in line else None
            if header:
                name, lines = header[2], []
                entry = name if header[1] else entry
        elif line.rstrip() == "}" or line.startswith("}, execution_thread="):
            computations[name], name = _computation(name, lines), None
        elif line.startswith(("  %", "  ROOT ")):
            lines.append(line)
        else:  # settings of a Mosaic kernel go on over several lines
            lines[-1] += "\n" + line
    if entry is None:
        raise ValueError("this is no text of a compiled program: it has no ENTRY computation.")
    partitions = re.search(r"num_partitions=(\d+)", text)
    return Module(computations, computations[entry], int(partitions[1]) if partitions else 1)


def _computation(name, lines):
    instructions = {i.name: i for i in map(_instruction, lines)}
    root = next(_instruction(line) for line in lines if line.startswith("  ROOT"))
    return Computation(name, instructions, root)


def _instruction(line):
    name, right = _INSTRUCTION.match(line).groups()
    opcode = _OPCODE.search(right)
    return Instruction(name, right[: opcode.start()], opcode[1], right[opcode.end() :])


def _shapes(text):
    space = lambda layout: int(m[1]) if layout and (m := _SPACE.search(layout)) else 0
    return tuple(
        Shape(m[1], tuple(map(int, filter(None, m[2].split(",")))), space(m[3])) for m in _SHAPE.finditer(text)
    )
