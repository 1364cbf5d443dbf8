"""A part of a file of lines. Free of jax."""

from collections.abc import Iterator
from typing import NamedTuple

PIECE = 1 << 20  # bytes that are looked at at a time


class Span(NamedTuple):
    """The bytes of whole lines: from `start` up to `end`; first_line: the number of the first one, from 1 on."""

    start: int
    end: int
    first_line: int


def spans(path: str, size: int) -> Iterator[Span]:
    """Yields the parts of a file of lines, one after another, each of about `size` bytes or of one longer line."""
    start, end, first_line, lines = 0, 0, 1, 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            if end + len(piece) - start >= size and (cut := piece.rfind(b"\n")) >= 0:
                lines += piece.count(b"\n")
                yield Span(start, end + cut + 1, first_line)
                start, first_line, lines = end + cut + 1, first_line + lines, 0
            else:
                lines += piece.count(b"\n")
            end += len(piece)
    if end > start:
        yield Span(start, end, first_line)
