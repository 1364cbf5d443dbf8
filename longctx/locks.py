"""A lock of a folder: one process writes there, and the kernel releases it however that process ends."""

import fcntl
import os
import pathlib
import socket
from typing import TextIO

from longctx.errors import UserError

NAME = "LOCK"  # the file; it stays when nobody holds the lock


def take(folder: pathlib.Path, what: str, instead: str) -> TextIO:
    """The open file LOCK of a folder, locked until it is closed or this process ends.

    folder: made if need be, on a file system with locks (POSIX). what, instead: for the error, the folder and what can
    be done, such as "--workdir='runs/a'" and "stop it, or choose another --workdir".

    Raises UserError where another process holds the lock, which the error names, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / NAME, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{what} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = " ".join(lock.read(200).split())
        lock.close()
        if not isinstance(error, BlockingIOError):
            raise UserError(f"{what} cannot be locked: {error.strerror}.") from error
        raise UserError(f"{what} is in use by process {holder}: {instead}.") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock


def is_at(lock: TextIO, folder: pathlib.Path) -> bool:
    """Whether an open lock is that of the folder still, and no other file has its place."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / NAME))
    except OSError:
        return False
