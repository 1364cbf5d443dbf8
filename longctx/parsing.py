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
    """(entry of `known`, numbers) of a name, or of a name with positive numbers in parentheses.

    "dca" gives (known["dca"], ()), and "self_extend(8, 512)" gives (known["self_extend"], (8, 512)).

    Args:
      field: the setting that holds `text`, for messages.
      besides: names of arguments of the entries that are not written.
      zero: whether numbers may be 0.

    Raises:
      UserError: for an unknown name, or numbers that do not fit the entry's arguments.
    """
    match = re.fullmatch(r"\s*(\w*)\s*(?:\(([^()]*)\))?\s*", text) if isinstance(text, str) else None
    if not match or match[1] not in known:
        raise unknown_name(field, match[1] if match else text, known)
    name, words = match[1], [word.strip() for word in match[2].split(",")] if match[2] else []
    parameters = [p for p in inspect.signature(known[name]).parameters.values() if p.name not in besides]
    required = sum(parameter.default is parameter.empty for parameter in parameters)
    numbers = [_number(word, parameter.annotation, zero) for word, parameter in zip(words, parameters, strict=False)]
    if not required <= len(words) <= len(parameters) or None in numbers:
        form = ", ".join(f"{parameter.name}: {parameter.annotation.__name__}" for parameter in parameters)
        bound = "none below 0" if zero else "all positive"
        raise UserError(f"{field}={text!r} must be {f'{name}({form}), {bound}' if form else f'{name} alone'}.")
    return known[name], tuple(numbers)


def _number(word: str, kind: type, zero: bool) -> int | float | None:
    """The number of type `kind` that `word` spells; None if it spells none, or one that is not positive (or zero)."""
    pattern = r"\d+" if kind is int else r"\d+\.?\d*|\.\d+"
    value = kind(word) if re.fullmatch(pattern, word) else -1
    return value if value > 0 or zero and value == 0 else None
