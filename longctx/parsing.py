"""Settings that are written as a call, such as "self_extend(8, 512)". Free of jax."""

import inspect
import re
from collections.abc import Callable

from longctx.errors import UserError, unknown_name


def parse_call(
    field: str, text: str, known: dict[str, Callable], skip: int = 0, zero: bool = False
) -> tuple[Callable, tuple]:
    """What a name, or a name with positive numbers in parentheses, stands for: the entry of `known`, and the numbers.

    skip: how many of the entries' first arguments are not written. zero: whether numbers may be 0.

    Raises:
      UserError: for an unknown name, or numbers that do not fit the entry's arguments; `field` names the setting.
    """
    match = re.fullmatch(r"\s*(\w*)\s*(?:\(([^()]*)\))?\s*", text) if isinstance(text, str) else None
    if not match or match[1] not in known:
        raise unknown_name(field, match[1] if match else text, known)
    name, words = match[1], [word.strip() for word in match[2].split(",")] if match[2] else []
    takes = list(inspect.signature(known[name]).parameters.values())[skip:]
    needed = sum(one.default is one.empty for one in takes)
    numbers = [_number(word, one.annotation, zero) for word, one in zip(words, takes, strict=False)]
    if not needed <= len(words) <= len(takes) or None in numbers:
        form = ", ".join(f"{one.name}: {one.annotation.__name__}" for one in takes)
        bound = "none below 0" if zero else "all positive"
        raise UserError(f"{field}={text!r} must be {f'{name}({form}), {bound}' if form else f'{name} alone'}.")
    return known[name], tuple(numbers)


def _number(word: str, kind: type, zero: bool) -> int | float | None:
    """The positive number, or 0 if that may be, that `word` is; None where it is none of that type."""
    pattern = r"\d+" if kind is int else r"\d+\.?\d*|\.\d+"
    value = kind(word) if re.fullmatch(pattern, word) else -1
    return value if value > 0 or zero and value == 0 else None
