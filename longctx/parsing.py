"""Settings that are written as a call, such as "self_extend(8, 512)". Free of jax."""

import inspect
import re
from collections.abc import Callable, Container
from typing import TypeVar

from longctx.errors import UserError, unknown_name

Entry = TypeVar("Entry", bound=Callable)


def parse_call(
    field: str, text: str, known: dict[str, Entry], besides: Container[str] = (), zero: bool = False
) -> tuple[Entry, tuple]:
    """(entry of `known`, numbers) of a name, or a name with positive numbers in parentheses.

    besides: names of arguments of the entries that are not written. zero: whether numbers may be 0.

    Raises:
      UserError: for an unknown name, or numbers that do not fit the entry's arguments; `field` names the setting.
    """
    match = re.fullmatch(r"\s*(\w*)\s*(?:\(([^()]*)\))?\s*", text) if isinstance(text, str) else None
    if not match or match[1] not in known:
        raise unknown_name(field, match[1] if match else text, known)
    name, words = match[1], [word.strip() for word in match[2].split(",")] if match[2] else []
    takes = [one for one in inspect.signature(known[name]).parameters.values() if one.name not in besides]
    needed = sum(one.default is one.empty for one in takes)
    numbers = [_number(word, one.annotation, zero) for word, one in zip(words, takes, strict=False)]
    if not needed <= len(words) <= len(takes) or None in numbers:
        form = ", ".join(f"{one.name}: {one.annotation.__name__}" for one in takes)
        bound = "none below 0" if zero else "all positive"
        raise UserError(f"{field}={text!r} must be {f'{name}({form}), {bound}' if form else f'{name} alone'}.")
    return known[name], tuple(numbers)


def _number(word: str, kind: type, zero: bool) -> int | float | None:
    """The number of type `kind` that a word is, positive, or 0 where `zero` allows it; else None."""
    pattern = r"\d+" if kind is int else r"\d+\.?\d*|\.\d+"
    value = kind(word) if re.fullmatch(pattern, word) else -1
    return value if value > 0 or zero and value == 0 else None
