"""Records in the files of a folder: JSON, lines of JSON, CSV, Parquet; read one by one where the format allows."""

import csv
import functools
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from longctx.errors import UserError

HIDDEN = "."  # what the names of files and folders begin with that are not looked at


class Folder:
    """The files below a folder, by their paths in it, with "/" between parts. Raises UserError where it is none."""

    def __init__(self, path: str):
        self.path = pathlib.Path(path).expanduser()
        if not self.path.is_dir():
            raise UserError(f"eval.data={path!r} is no folder; it must be that of a set that was downloaded.")
        inside = ((file.relative_to(self.path), file) for file in self.path.rglob("*") if file.is_file())
        shown = ((name, file) for name, file in inside if not any(part.startswith(HIDDEN) for part in name.parts))
        self.files = {name.as_posix(): file for name, file in sorted(shown)}
        self._rows: dict[str, Sequence[Any]] = {}

    def tables(self, pattern: str, *keys: str, without: Iterable[str] = ()) -> dict[str, Sequence[Any]]:
        """The records of the files whose path ends with a pattern, from the start of a name, if the first has the keys.

        The groups of the pattern, with a space between them, are the names of the tables; files with the same name are
        parts of one, in order of their paths.
        without: keys of which none may be there.
        """
        parts: dict[str, list[Sequence[Any]]] = {}
        for name, found in self.matching(pattern):
            rows = self.rows(name)
            known = columns(rows)
            if known.issuperset(keys) and not known.intersection(without):
                parts.setdefault(" ".join(filter(None, found.groups())), []).append(rows)
        return {name: tables[0] if len(tables) == 1 else Joined(tables) for name, tables in parts.items()}

    def matching(self, pattern: str) -> list[tuple[str, re.Match]]:
        """The paths that end with a pattern, at the start of the name of a file or folder, and their matches."""
        whole = re.compile(rf"(?:.*?/)??{pattern}")
        return [(name, found) for name in self.files if (found := whole.fullmatch(name))]

    def rows(self, name: str) -> Sequence[Any]:
        """The records of a file."""
        if name not in self._rows:
            self._rows[name] = rows_of(self.files[name])
        return self._rows[name]

    def text(self, name: str) -> str:
        """The text of a file."""
        return self.files[name].read_text("utf-8")


def rows_of(path: pathlib.Path) -> Sequence[Any]:
    """The records of a file; of one that is no table, or cannot be read as what its name says, none."""
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return Parquet(path)
        if kind in (".csv", ".tsv"):
            return _of_csv(path, "\t" if kind == ".tsv" else ",")
        if kind == ".jsonl":
            return Lines(path)
        return _of_json(path) if kind == ".json" else []
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error):
        return []


def columns(rows: Sequence[Any]) -> set[str]:
    """The keys of the first record."""
    if isinstance(rows, Parquet):
        return set(rows.names) if len(rows) else set()
    try:
        first = rows[0] if len(rows) else None
    except (json.JSONDecodeError, UnicodeDecodeError):
        return set()
    return set(first) if isinstance(first, dict) else set()


def column(rows: Sequence[Any], name: str) -> list:
    """A value of every record, None where it has none."""
    if isinstance(rows, Joined):
        return [value for part in rows.parts for value in column(part, name)]
    return rows.column(name) if isinstance(rows, Parquet) else [row.get(name) for row in rows]


def by_value(rows: Sequence[Any], name: str) -> dict[Any, Sequence[Any]]:
    """The records with each value of a column, in the order in which the values come."""
    places: dict[Any, list[int]] = {}
    for i, value in enumerate(column(rows, name)):
        places.setdefault(value, []).append(i)
    return {value: Picked(rows, found) for value, found in places.items()}


class Lines(Sequence):
    """The records of a file with one of JSON on each line; blank lines are none."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """int64, the byte at which each record begins."""
        starts, at = [], 0
        with self.path.open("rb") as file:
            for line in file:
                starts += [at] if line.strip() else []
                at += len(line)
        return np.array(starts, np.int64)

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        with self.path.open("rb") as file:
            file.seek(int(self.starts[index]))
            return json.loads(file.readline())


class Parquet(Sequence):
    """The records of a Parquet file, of which one group of rows is in memory. Raises UserError without pyarrow."""

    def __init__(self, path: pathlib.Path):
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise UserError(
                f"{str(path)!r} needs pyarrow, which is not installed: pip install 'longctx[data]'."
            ) from error
        self.file = parquet.ParquetFile(path)
        self.names = self.file.schema_arrow.names
        groups = range(self.file.num_row_groups)
        self.ends = np.cumsum([self.file.metadata.row_group(i).num_rows for i in groups], dtype=np.int64)
        self._group: tuple[int, Any] = (-1, None)

    def __len__(self):
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = int(np.searchsorted(self.ends, index, side="right"))
        if self._group[0] != at:
            self._group = at, self.file.read_row_group(at)
        start = int(self.ends[at - 1]) if at else 0
        return self._group[1].slice(index - start, 1).to_pylist()[0]

    def column(self, name: str) -> list:
        """A value of every record."""
        return self.file.read(columns=[name]).column(name).to_pylist()


class Joined(Sequence):
    """The records of several tables, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Any]]):
        self.parts = parts

    def __len__(self):
        return sum(map(len, self.parts))

    def __getitem__(self, index):
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


class Picked(Sequence):
    """Some records of a table."""

    def __init__(self, rows: Sequence[Any], places: Sequence[int]):
        self.rows, self.places = rows, places

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        return self.rows[self.places[index]]


def _of_csv(path: pathlib.Path, delimiter: str) -> list[dict]:
    csv.field_size_limit(sys.maxsize)  # a text is one field
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def _of_json(path: pathlib.Path) -> Sequence[Any]:
    """A list, the list under "data", or lines of JSON under a name that says otherwise."""
    with path.open(encoding="utf-8") as file:
        first = next((line for line in file if line.strip()), "")
        if first.lstrip().startswith("{") and first.rstrip().endswith("}") and file.readline().strip():
            return Lines(path)
        file.seek(0)
        found = json.load(file)
    found = found.get("data", [found]) if isinstance(found, dict) else found
    return found if isinstance(found, list) else []
