"""Records in JSON: one in each line (.jsonl), or a list of them, or one alone (.json). Free of jax and grain."""

import codecs
import itertools
import json
import os
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

from longctx.data.formats import tokens
from longctx.data.formats.format import Metered, Part, Reading
from longctx.data.formats.text import is_empty, why_not_utf8, wide_encoding
from longctx.data.records.record import Bad


class NotJson(Bad):
    """A problem with a text: it is not JSON."""


def lines(file: Metered, reading: Reading) -> Iterator[Part]:
    """Each line as a JSON object in UTF-8 (RFC 8259), a record of the form or of ids. Blank lines are none.

    A key that comes twice makes a line bad, and so does half of a surrogate pair. Numbers may have any length.
    """
    for number, line in enumerate(file.lines(), start=file.first_line):
        if number == 1:
            if encoding := wide_encoding(line):
                yield _not_utf8(file.path, encoding)
                return
            line = line.removeprefix(codecs.BOM_UTF8)
        if not is_empty(line):
            yield _part(number, line, file.path, reading)


def values(file: Metered, reading: Reading) -> Iterator[Part]:
    """A file of JSON: the objects of its list, or its one object, each a record of the form.

    Many files with this extension hold an object in each line: one whose first line is a whole object, and not its
    last, is read so, without having all of it in memory.
    """
    found = enumerate(file.lines(), start=1)
    first = next(((number, line) for number, line in found if not is_empty(line)), (0, b""))
    if encoding := wide_encoding(first[1]):
        yield _not_utf8(file.path, encoding)
        return
    first = first[0], first[1].removeprefix(codecs.BOM_UTF8)
    second = next(((number, line) for number, line in found if not is_empty(line)), None)
    if second and _is_object(first[1]):
        rest = itertools.chain([first, second], found)
        yield from (_part(number, line, file.path, reading) for number, line in rest if not is_empty(line))
    else:
        rest = (line for _, line in itertools.chain([second] if second else [], found))
        yield from _of_one(b"".join([first[1], *rest]), file.path, reading)


def decoded(text: bytes) -> Any:
    """The value of a text in JSON, whole numbers as floats. Raises NotJson, or Bad for a key that comes twice."""
    if why := why_not_utf8(text):
        raise NotJson(why)
    try:
        return _JSON.decode(text.decode())
    except json.JSONDecodeError as error:
        raise NotJson(f"is not JSON ({error})") from error
    except RecursionError as error:
        raise NotJson("is JSON nested deeper than Python reads it") from error


def _part(number: int, line: bytes, path: str, reading: Reading) -> Part:
    """The document of a line."""
    try:
        return _of_record(number, decoded(line), reading, "every line", f"line {number} of {path!r}")
    except Bad as why:
        return Part(number, bad=str(why))


def _of_record(number: int, record: Any, reading: Reading, what: str, where: str) -> Part:
    """The document of a value, which must be an object: of the form, or of ids. what, where: it, in words."""
    try:
        if not isinstance(record, dict):
            raise Bad(f"is a JSON {type(record).__name__}; {what} must be one object")
        if tokens.are_in(record, reading):
            return tokens.of_record(number, record, where, reading)
        return Part(number, reading.form.content(record))
    except Bad as why:
        return Part(number, bad=str(why))


def _of_one(text: bytes, path: str, reading: Reading) -> Iterator[Part]:
    """The documents of a file that is one value."""
    try:
        value = decoded(text) if text else []
    except Bad as why:
        yield Part(0, bad=str(why))
        return
    if isinstance(value, list):
        for i, record in enumerate(value, start=1):
            yield _of_record(i, record, reading, "every item", f"item {i} of {path!r}")
    else:
        yield _of_record(0, value, reading, "a file that is no list of objects", repr(path))


def _is_object(line: bytes) -> bool:
    """Whether a line is a whole object of JSON, sound or not."""
    try:
        return isinstance(decoded(line), dict)
    except Bad as why:
        return not isinstance(why, NotJson)


def _not_utf8(path: str, encoding: str) -> Part:
    kind = next(part for part in (".jsonl", ".ndjson", ".json") if part in os.path.basename(path).lower())
    return Part(0, bad=f"is {encoding.upper()}; {kind} must be UTF-8")


def _without_twice(items: Iterable[tuple[str, object]]) -> dict:
    items = list(items)
    record = dict(items)
    if len(record) < len(items):
        keys = [key for key, _ in items]
        raise Bad(f"has the key {reprlib.repr(next(key for key in keys if keys.count(key) > 1))} twice")
    return record


# float: numbers are never looked at, and Python refuses to make an int of more than 4,300 digits
_JSON = json.JSONDecoder(parse_int=float, object_pairs_hook=_without_twice)
