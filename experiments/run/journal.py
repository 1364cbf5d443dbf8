"""A file of lines of JSON that a command appends to while it measures, and goes on from later.

The first line says what the others were measured of.
"""

import json
import pathlib
from collections.abc import Collection

from experiments.run.metrics import dump
from longctx.checkpoints import identity
from longctx.errors import UserError


class Journal:
    """The lines of a file, read when it is made, and appended to.

    Attributes:
      lines: those behind the first.
      begun: whether there was a first line.
    """

    def __init__(self, path: pathlib.Path, said: dict, fields: Collection[str], command: str, active: bool = True):
        """said: the first line. fields: names that every other line has. active: whether this process writes.

        Raises UserError where the file is not what `command` writes. What a crash left half written at its end is cut
        off.
        """
        self.path, self.said, self.active = path, json.loads(dump(said)), active
        lines = _read(path, fields, command)
        self.begun, self.lines = bool(lines), lines[1:]
        self._stored = lines[0] if lines else self.said
        if not lines:
            self._write([self.said], "w")

    def differing(self, free: frozenset[str]) -> dict[str, tuple[str, str]]:
        """The fields of the first line that are not what is said now, but for those of `free`; see identity."""
        return identity.differing(self._stored, self.said, free)

    def begin_anew(self) -> None:
        """Drops all lines."""
        self.lines = []
        self._write([self.said], "w")

    def add(self, lines: list[dict]) -> None:
        """Appends lines."""
        self.lines += lines
        self._write(lines, "a")

    def _write(self, lines: list[dict], mode: str) -> None:
        if self.active:
            with self.path.open(mode) as file:
                file.writelines(dump(line) + "\n" for line in lines)


def _read(path: pathlib.Path, fields: Collection[str], command: str) -> list[dict]:
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        known = all(isinstance(line, dict) for line in lines)
        known = known and all(set(fields) <= line.keys() for line in lines[1:])
    except ValueError:
        known = False
    if not known:
        raise UserError(f"{path} is not what {command} writes; move it away, or name another --workdir.")
    return lines
