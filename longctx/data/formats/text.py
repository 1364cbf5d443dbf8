"""Files that are one text each, in UTF-8 or with a byte order mark that says otherwise. Free of jax and grain."""

import codecs
from collections.abc import Iterator

from longctx.data.formats.format import Metered, Part, Reading
from longctx.data.records.record import Content

HEAD = 4096  # bytes by which UTF-16 without a byte order mark is told

# UTF-32 before UTF-16: the mark of the latter begins that of the former.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def whole(file: Metered, reading: Reading) -> Iterator[Part]:
    """The file as one document: any bytes, but for those that say to be UTF-16 or UTF-32.

    A byte order mark is not text: that of UTF-8 is taken off, and what the others begin becomes UTF-8. UTF-16 that has
    none is bad where it shows, which is in mostly Latin text: every second byte is zero there.
    """
    data = file.whole()
    encoding = wide_encoding(data)
    if encoding == "utf-16":
        yield Part(0, bad="looks like UTF-16 without a byte order mark; it must be UTF-8, or have one")
    elif encoding:
        yield _decoded(data, encoding)
    else:
        yield Part(0, Content(data.removeprefix(codecs.BOM_UTF8)))


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


def wide_encoding(data: bytes) -> str:
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
