"""The documents in one file: a reader for each extension. Free of jax and grain.

A reader is a function (Metered, form of records) -> parts. It never raises for what a file holds: what is bad about a
document is in its part, and the documents after it come all the same.
"""

import codecs
import gzip
import json
import reprlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import BinaryIO, NamedTuple

from longctx.data.records.record import Bad, Content, Form
from longctx.errors import UserError

PIECE = 1 << 20  # bytes that are read, or decompressed, at a time
HEAD = 4096  # bytes by which UTF-16 without a byte order mark is told

# UTF-32 before UTF-16: the mark of the latter begins that of the former.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Part(NamedTuple):
    """A document of a file: the number of its line from 1 on, or 0 for what is of the whole file, and its content.

    bad: what is wrong with it, as the end of a sentence about it; "" for a document that can be used.
    """

    line: int
    content: Content = Content(b"")
    bad: str = ""


class Metered:
    """A file that is read a piece at a time. `take` is told the bytes of each piece, and raises when they are too many:
    a few megabytes of gzip can hold many gigabytes."""

    def __init__(self, file: BinaryIO, take: Callable[[int], None]):
        self._file, self._take = file, take

    def whole(self) -> bytes:
        """All bytes of the file."""
        return b"".join(self._pieces(self._file.read))

    def lines(self) -> Iterator[bytes]:
        """The lines of the file, each with its line end."""
        parts = []
        for piece in self._pieces(self._file.readline):
            parts.append(piece)
            if piece.endswith(b"\n"):
                yield b"".join(parts)
                parts = []
        if parts:
            yield b"".join(parts)

    def _pieces(self, read) -> Iterator[bytes]:
        while piece := read(PIECE):
            self._take(len(piece))
            yield piece


def parts(path: str, form: Form, take: Callable[[int], None]) -> Iterator[Part]:
    """The documents of a file with an extension in READERS, in their order, decompressed if its name ends in .gz.

    take: see Metered. Raises UserError for a file that the system does not let be read.
    """
    try:
        with gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb") as file:
            yield from READERS[extension(path)](Metered(file, take), form)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        yield Part(0, bad=f"is not a whole gzip file ({error})")
    except OSError as error:
        raise UserError(f"data.path: {path!r} cannot be read: {error.strerror}.") from error


def extension(name: str) -> str:
    """The extension in lower case; of notes.txt.gz it is ".txt", of notes.gz ".gz", without any ""."""
    name = PurePath(name).name.lower()
    return PurePath(name.removesuffix(".gz")).suffix or PurePath(name).suffix


def is_empty(text: bytes) -> bool:
    """Whether a document holds nothing but white space."""
    return not text or text.isspace()


def why_not_utf8(text: bytes) -> str:
    """Where a text stops being UTF-8; "" if it is."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 at byte {error.start} (0x{text[error.start]:02x})"
    return ""


def whole(file: Metered, form: Form) -> Iterator[Part]:
    """The file as one document: any bytes, but for those that say to be UTF-16 or UTF-32.

    A byte order mark is not text: that of UTF-8 is taken off, and what the others begin becomes UTF-8. UTF-16 that has
    none is bad where it shows, which is in mostly Latin text: every second byte is zero there.
    """
    data = file.whole()
    encoding = _wide_encoding(data)
    if encoding == "utf-16":
        yield Part(0, bad="looks like UTF-16 without a byte order mark; it must be UTF-8, or have one")
    elif encoding:
        yield _decoded(data, encoding)
    else:
        yield Part(0, Content(data.removeprefix(codecs.BOM_UTF8)))


def lines(file: Metered, form: Form) -> Iterator[Part]:
    """Each line as a JSON object in UTF-8 (RFC 8259), a record of the form. Blank lines are none.

    A key that comes twice makes a line bad, and so does half of a surrogate pair. Numbers may have any length.
    """
    for number, line in enumerate(file.lines(), start=1):
        if number == 1:
            if encoding := _wide_encoding(line):
                yield Part(0, bad=f"is {encoding.upper()}; .jsonl must be UTF-8")
                return
            line = line.removeprefix(codecs.BOM_UTF8)
        if not is_empty(line):
            try:
                yield Part(number, form.content(_record(line)))
            except Bad as why:
                yield Part(number, bad=str(why))


READERS: dict[str, Callable[[Metered, Form], Iterator[Part]]] = {
    ".txt": whole,
    ".md": whole,
    ".py": whole,
    ".jsonl": lines,
}


def _wide_encoding(data: bytes) -> str:
    """The encoding of a byte order mark of two bytes or more a character, "utf-16" for what looks so, or ""."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return encoding
    even, odd = (data[start:HEAD:2].count(0) for start in (0, 1))
    pairs = min(len(data), HEAD) // 2
    return "utf-16" if pairs >= 4 and max(even, odd) > pairs / 2 and min(even, odd) <= pairs / 100 else ""


def _decoded(data: bytes, encoding: str) -> Part:
    try:
        return Part(0, Content(data.decode(encoding).removeprefix("\ufeff").encode()))
    except UnicodeDecodeError as error:
        return Part(
            0,
            bad=f"begins with the byte order mark of {encoding.upper()}, and is not ({error.reason} at byte "
            f"{error.start})",
        )


def _record(line: bytes) -> dict:
    if why := why_not_utf8(line):
        raise Bad(why)
    try:
        record = _JSON.decode(line.decode())
    except json.JSONDecodeError as error:
        raise Bad(f"is not JSON ({error})") from error
    except RecursionError as error:
        raise Bad("is JSON nested deeper than Python reads it") from error
    if not isinstance(record, dict):
        raise Bad(f"is a JSON {type(record).__name__}; every line must be one object")
    return record


def _without_twice(items: list[tuple[str, object]]) -> dict:
    record = dict(items)
    if len(record) < len(items):
        keys = [key for key, _ in items]
        raise Bad(f"has the key {reprlib.repr(next(key for key in keys if keys.count(key) > 1))} twice")
    return record


# float: numbers are never looked at, and Python refuses to make an int of more than 4,300 digits
_JSON = json.JSONDecoder(parse_int=float, object_pairs_hook=_without_twice)
