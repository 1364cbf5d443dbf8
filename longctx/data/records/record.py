"""The interface of forms of records: which fields of a JSON object, or columns of a table, make a document.

To add one: a file here with a class that has these three, and a line in FORMS of api.py.
"""

import reprlib
from typing import NamedTuple, Protocol, Self

from longctx.config import DataConfig

MOST_FIELDS = 20  # of a record that an error names


class Bad(Exception):
    """A problem with a record, as the end of a sentence about it."""


class Content(NamedTuple):
    """The text of a record, in UTF-8. asked, special: see longctx.data.document.Document."""

    text: bytes
    asked: tuple[tuple[int, int], ...] | None = None
    special: bool = False


class Form(Protocol):
    """The way to make a document of a record."""

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """The form that the settings ask for. Raises UserError for settings that it cannot work with."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """What it reads of a record: of a table, nothing else has to be read."""
        ...

    def content(self, record: dict) -> Content:
        """The document of a record, whose fields may be missing. Raises Bad."""
        ...


def text_of(record: dict, field: str, setting: str) -> bytes:
    """The text in a field, in UTF-8. setting: where the field comes from, for the message. Raises Bad."""
    if not isinstance(record.get(field), str):
        strings = [reprlib.repr(key) for key, value in record.items() if isinstance(value, str)]
        raise Bad(f"has no text in {setting}; the text fields there: {', '.join(strings[:MOST_FIELDS]) or 'none'}")
    try:
        return record[field].encode()
    except UnicodeEncodeError as error:
        code = ord(record[field][error.start])
        raise Bad(f"has \\u{code:x} in {setting}, half of a surrogate pair alone") from error
