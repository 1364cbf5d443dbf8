"""UserError, whose message is meant for the person who typed the command."""

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class UserError(ValueError):
    """An error in what the user gave. The message is one line: the field, its value, and what would work.

    Commands print the message without a traceback and exit with code 2.
    """


def as_user_error(check: Callable[Given, Result], *args: Given.args, **named: Given.kwargs) -> Result:
    """Calls check(*args, **named) and raises its ValueError as a UserError: for checks that do not know longctx."""
    try:
        return check(*args, **named)
    except ValueError as error:
        raise UserError(str(error)) from error


def unknown_name(field: str, name: object, known: Iterable[str], listed: str = "") -> UserError:
    """The error for a `name` that is not in `known`; the message lists the known names and suggests the nearest.

    listed: what is said instead of a list of all.
    """
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"{field}={name!r} is not known.{hint} Known: {listed or ', '.join(known)}.")
