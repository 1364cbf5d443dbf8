"""The header of a GGUF file: metadata, and where each tensor lies. Free of jax, and of the library `gguf`.

That library takes a Python object per token of the vocabulary, seconds for a large one.
"""

import math
import mmap
import pathlib
import struct
from typing import Any, NamedTuple

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY, BOOL = 8, 9, 7
# kinds of values: their letters in `struct`
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT = "general.alignment"
MOST_DIMENSIONS = 4
# kinds of tensors: (name, values in a block, bytes of a block)
KINDS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


class Placed(NamedTuple):
    """A tensor in a file. shape: slowest dimension first; offset: of its first byte; bytes: of all."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class Header(NamedTuple):
    """The metadata of a file by key, and its tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, Placed]


def read(path: pathlib.Path) -> Header:
    """The header of a GGUF file. Raises OSError, and ValueError for a file that is none, or cut short."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Cursor(content).header()
            except struct.error as error:
                raise ValueError("its header ends early") from error


class _Cursor:
    """A place in the content of a file, behind the four letters at first."""

    def __init__(self, content: mmap.mmap):
        self.content, self.at, self.size = content, len(MAGIC), len(content)

    def header(self) -> Header:
        version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}")
        tensors, entries = self.number("Q"), self.number("Q")
        metadata = {}
        for _ in range(self.possible(entries, 12)):
            key = self.strings(1)[0]
            metadata[key] = self.value(self.number("I"))
        found = [self.tensor() for _ in range(self.possible(tensors, 24))]
        alignment = metadata.get(ALIGNMENT, 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its alignment is {alignment!r}")
        start = -(-self.at // alignment) * alignment
        placed = {name: tensor._replace(offset=start + tensor.offset) for name, tensor in found}
        if placed and self.size < max(tensor.offset + tensor.bytes for tensor in placed.values()):
            raise ValueError(f"it has {self.size} bytes, and its tensors more")
        return Header(metadata, placed)

    def tensor(self) -> tuple[str, Placed]:
        name = self.strings(1)[0]
        dimensions = self.number("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = tuple(reversed(self.numbers("Q", dimensions)))
        kind, offset = self.number("I"), self.number("Q")
        known, values, size = KINDS.get(kind, (f"number {kind}", 1, 0))
        if shape and shape[-1] % values:
            raise ValueError(f"{name} has rows of {shape[-1]} values, in blocks of {values}")
        return name, Placed(known, shape, offset, math.prod(shape) // values * size)

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.strings(1)[0]
        if kind != ARRAY:
            return self.number(self.letter(kind))
        of, count = self.number("I"), self.number("Q")
        if of == STRING:
            return self.strings(self.possible(count, 8))
        if of == ARRAY:
            return [self.value(ARRAY) for _ in range(self.possible(count, 12))]
        return list(self.numbers(self.letter(of), self.possible(count, 1)))

    def letter(self, kind: int) -> str:
        if kind not in NUMBERS:
            raise ValueError(f"a value is of the kind {kind}")
        return NUMBERS[kind]

    def possible(self, count: int, least: int) -> int:
        """`count`, of things that take at least so many bytes each, if the file has room for them."""
        if count * least > self.size - self.at:
            raise ValueError(f"it names {count} entries, and has no room for them")
        return count

    def number(self, letter: str) -> Any:
        return self.numbers(letter, 1)[0]

    def numbers(self, letter: str, count: int) -> tuple:
        layout = struct.Struct(f"<{count}{letter}")
        values = layout.unpack_from(self.content, self.at)
        self.at += layout.size
        return values

    def strings(self, count: int) -> list[str]:
        """The next strings. A vocabulary is read by this loop: it calls little."""
        content, at, found, size_at = self.content, self.at, [], struct.Struct("<Q").unpack_from
        for _ in range(count):
            (size,) = size_at(content, at)
            start, at = at + 8, at + 8 + size
            if at > self.size:
                raise ValueError("a text in it ends behind it")
            found.append(content[start:at].decode())
        self.at = at
        return found
