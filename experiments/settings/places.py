"""Files and folders that a command is told of: of this machine, and writable before anything is computed."""

import os
import pathlib
import re
import tempfile

from longctx.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check_local(field: str, value) -> None:
    """Raises UserError where a setting or an option is an address such as gs://bucket/run.

    pathlib would make it a folder "gs:" of this machine, and lose a slash: call with what was typed.
    """
    if isinstance(value, str) and (scheme := _SCHEME.match(value)):
        raise UserError(
            f"{field}={value!r} is an address of {scheme[0]}, and only files and folders of this machine "
            "can be read and written; copy it, or mount it and give the folder."
        )


def check_folder(option: str, folder) -> None:
    """Raises UserError where no folder of that name can be made, or nothing written into it. Leaves nothing behind.

    What the system says is what counts: permissions do not tell that /proc takes no folders.
    """
    whole = pathlib.Path(folder).absolute()
    there = next(one for one in (whole, *whole.parents) if os.path.lexists(one))
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".longctx-") as probe:
            pathlib.Path(probe, whole.relative_to(there)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = "is not a folder" if isinstance(error, NotADirectoryError) else "cannot be written to"
        raise UserError(
            f"{option}={str(folder)!r} cannot be used: {str(there)!r} {problem} ({error.strerror})."
        ) from error


def check_file(option: str, path: str | None) -> None:
    """Raises UserError, before anything is measured, where a result could not be written."""
    if path is None:
        return
    parent = pathlib.Path(path).absolute().parent
    if pathlib.Path(path).is_dir() or not parent.is_dir():
        raise UserError(f"{option}={path} cannot be written; give a file in a folder that exists and is writable.")
    check_folder(option, parent)
