"""The files below a folder, links followed. Free of jax and grain."""

import heapq
import os
import stat
from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

from longctx.data.span import Span
from longctx.errors import UserError


class File(NamedTuple):
    """A file: its name below the folder, its path, its bytes, and a key that all names of one file share.

    missing: why it cannot be read, such as a link that leads nowhere, which has no identity. modified: when, in ns; 0
    where it is not known. span: the part of it that is meant, None for all.
    """

    name: str
    path: str
    size: int = 0
    identity: Hashable = None
    missing: str = ""
    modified: int = 0
    span: Span | None = None


def walk(root: str, skip: frozenset[str]) -> tuple[list[File], Counter[str]]:
    """All files below a folder, and how many folders of which name were passed over: hidden ones and those in `skip`.

    A folder that several links lead to is entered once, so links cannot lead in circles. What lies behind no link comes
    first, so that a new link gives no other file another name; apart from that files are sorted by name. A file with
    several names is listed by all of them. Raises UserError for a folder that cannot be read.
    """
    found, passed_over, entered, waiting = [], Counter(), set(), [(False, root)]
    while waiting:
        behind_link, folder = heapq.heappop(waiting)
        entries, identity = _entries(folder)
        if identity in entered:
            continue
        entered.add(identity)
        for entry in entries:
            linked = behind_link or entry.is_symlink()
            if not os.path.isdir(entry.path):
                found.append((linked, file(entry.path, os.path.relpath(entry.path, root))))
            elif entry.name.startswith(".") or entry.name in skip:
                passed_over[entry.name] += 1
            else:
                heapq.heappush(waiting, (linked, entry.path))
    return [one for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].name))], passed_over


def file(path: str, name: str) -> File:
    """The file at a path. What is no file has a reason: opening a pipe would wait for ever."""
    try:
        found = os.stat(path)
    except OSError as error:
        return File(name, path, missing=error.strerror or str(error))
    missing = "" if stat.S_ISREG(found.st_mode) else "it is not a regular file"
    return File(name, path, found.st_size, (found.st_dev, found.st_ino), missing, found.st_mtime_ns)


def require_readable(one: File) -> None:
    """Raises UserError for a file that cannot be read."""
    if one.missing:
        raise UserError(f"data.path: {one.path!r} cannot be read: {one.missing}.")


def require_unchanged(one: File) -> None:
    """Raises UserError for a file that is not as it was when it was found."""
    if one.modified and (now := file(one.path, one.name)) != one._replace(span=None):
        raise UserError(
            f"data.path: {one.path!r} changed while it was read, from {one.size:,} bytes to {now.size:,}; start again "
            "once it is finished."
        )


def _entries(folder: str) -> tuple[list[os.DirEntry], tuple[int, int]]:
    """The entries of a folder, and its identity."""
    try:
        found = os.stat(folder)
        with os.scandir(folder) as entries:
            return list(entries), (found.st_dev, found.st_ino)
    except OSError as error:
        raise UserError(f"data.path: {error.filename!r} cannot be read: {error.strerror}.") from error
