"""Checks of the files and folders that a command is given: local, and writable before anything is computed."""

import os
import pathlib
import re
import tempfile

from longctx.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check_local(field: str, value) -> None:
    """Raises UserError where the value of a setting or an option is an address such as gs://bucket/run.

    value: as it was typed; pathlib would make it a local folder "gs:", and lose a slash.
    """
    if isinstance(value, str) and (scheme := _SCHEME.match(value)):
        raise UserError(
            f"{field}={value!r} is an address of {scheme[0]}, and only files and folders of this machine "
            "can be read and written; copy it, or mount it and give the folder."
        )


def check_folder(option: str, folder) -> None:
    """Raises UserError where the folder cannot be made or written into. Leaves nothing behind.

    The check makes a folder, since permissions do not tell, for example, that /proc takes none.
    """
    path = pathlib.Path(folder).absolute()
    existing = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".longctx-") as probe:
            pathlib.Path(probe, path.relative_to(existing)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = "is not a folder" if isinstance(error, NotADirectoryError) else "cannot be written to"
        raise UserError(
            f"{option}={str(folder)!r} cannot be used: {str(existing)!r} {problem} ({error.strerror})."
        ) from error


def check_file(option: str, path: str | None) -> None:
    """Raises UserError where a result could not be written to `path`; None is fine. Called before anything is run."""
    if path is None:
        return
    parent = pathlib.Path(path).absolute().parent
    if pathlib.Path(path).is_dir() or not parent.is_dir():
        raise UserError(f"{option}={path} cannot be written; give a file in a folder that exists and is writable.")
    check_folder(option, parent)
