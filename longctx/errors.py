"""The one error type whose message is meant for the person who typed the command."""


class UserError(ValueError):
    """Something the user gave cannot work. The message is one line: the field, its value, and what would work.

    Commands print it without a traceback and exit with code 2.
    """


def as_user_error(check, *args, **named):
    """check(*args, **named), its ValueError as a UserError: for checks of packages that know nothing of longctx."""
    try:
        return check(*args, **named)
    except ValueError as error:
        raise UserError(str(error)) from error


def unknown_name(field: str, name: str, known) -> UserError:
    """The error for a name that its dict does not hold: the known names, and the nearest one."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"{field}={name!r} is not known.{hint} Known: {', '.join(known)}.")
