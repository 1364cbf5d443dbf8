"""The interface of formats of files. Free of jax and grain.

A reader is a function (Metered, Reading) -> parts. What is bad about a document is in its part, and the documents after
it come all the same; UserError is for what makes all of a file useless, such as a column that is not there.

To add one: a file here with the function, and a line in FORMATS of api.py.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import BinaryIO, NamedTuple

import numpy as np

from longctx.data.records.record import Content, Form
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError

PIECE = 1 << 20  # bytes that are read, or decompressed, at a time


class Part(NamedTuple):
    """A document of a file: its number (of a line, a row, ...) from 1 on, or 0 for what is of the whole file, and its
    content, a text or ids.

    bad: what is wrong with it, as the end of a sentence about it; "" for a document that can be used. name: what
    stands behind the name of the file in that of the document, "" for the number. ids, counts: of what is tokenised
    already, see longctx.data.document.Document.
    """

    line: int
    content: Content = Content(b"")
    bad: str = ""
    name: str = ""
    ids: np.ndarray | None = None
    counts: np.ndarray | None = None


@dataclass(frozen=True)
class Reading:
    """The settings that readers follow: the form of records, data.token_dtype, and what gives the tokenizer of ids."""

    form: Form
    token_dtype: str
    tokenizer: Callable[[], Tokenizer]


class Metered:
    """A file that is read a piece at a time. `take` is told the bytes of each piece, and raises when they are too many:
    a few megabytes of gzip can hold many gigabytes.

    raw: the file as it is, for formats that are read at several places; what is used of it is for them to `take`.
    first_line: the number of the first line, of what may be a part of a file.
    """

    def __init__(self, raw: BinaryIO, take: Callable[[int], None], path: str, first_line: int = 1):
        self.raw, self.take, self.path, self.first_line = raw, take, path, first_line

    @property
    def size(self) -> int:
        """Its bytes; the place where it is read becomes its start."""
        size = self.raw.seek(0, 2)
        self.raw.seek(0)
        return size

    def whole(self) -> bytes:
        """All bytes of the file."""
        return b"".join(self._pieces(self.raw.read))

    def lines(self) -> Iterator[bytes]:
        """The lines of the file, each with its line end."""
        parts = []
        for piece in self._pieces(self.raw.readline):
            parts.append(piece)
            if piece.endswith(b"\n"):
                yield b"".join(parts)
                parts = []
        if parts:
            yield b"".join(parts)

    def _pieces(self, read: Callable[[int], bytes]) -> Iterator[bytes]:
        while piece := read(PIECE):
            self.take(len(piece))
            yield piece


Reader = Callable[[Metered, Reading], Iterator[Part]]


class Format(NamedTuple):
    """The way to read files of one kind.

    unit: what Part.line counts. streamed: it is read from its start to its end, so that it may be compressed. whole:
    all of its bytes are read, so that its size is a bound.
    """

    read: Reader
    unit: str = "line"
    streamed: bool = True
    whole: bool = True


def unusable(path: str, what: str) -> UserError:
    """The error for a file that is of no use as it is; what: the end of a sentence about it."""
    end = os.path.splitext(path)[1].lower()
    return UserError(f"data.path: {path!r} {what}; data.ignore=({end!r},) leaves such files of a folder out.")


def needed(module: str, package: str, path: str, install: str = "'longctx[data]'") -> ModuleType:
    """A module of a package. Raises UserError, naming the file that needs it and what to install, without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"data.path: {path!r} needs {package}, which is not installed: pip install {install}."
        ) from error
