"""The manifest that makes a checkpoint step trustworthy: size and SHA-256 of every file, and all that is not an array.

    120/                  one step
      state/...           the arrays, as orbax writes them (orbax does not notice flipped bits in them)
      MANIFEST.json       {"sha256": of the body, "body": the fields of Manifest}

A step counts only with its manifest. The checksums find accidents; they do not stop someone who rewrites both the files
and the manifest. Nothing here imports jax, so a command can read a run's settings quickly.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from longctx import json_files
from longctx.errors import UserError

NAME = "MANIFEST.json"
_PIECE = 2**22  # bytes read at once
_STEP = re.compile(r"0|[1-9][0-9]{0,17}")  # int() would also take "0974" and the digits of other scripts


class Damaged(Exception):
    """The error for a step that differs from what was sealed; the message names the file and what is wrong with it."""


class Manifest(NamedTuple):
    """The contents of a step.

    Attributes:
      files: path relative to the step's folder -> [bytes, SHA-256].
      leaves: dotted name of an array -> "dtype[shape]".
      data, meta: the JSON-able values that were saved along.
      since: saves of the run since the last one that is kept for good, this one included; 0: this one is kept for good.
    """

    step: int
    files: dict[str, tuple[int, str]]
    leaves: dict[str, str]
    data: Any
    meta: Any
    since: int = 1  # in manifests of before there was `since`


def write(step_dir: pathlib.Path, manifest: Manifest) -> None:
    """Hashes every file under step_dir/state and makes it durable, then writes `manifest` with these as its `files`."""
    files = {}
    for path in sorted(p for p in (step_dir / "state").rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        files[path.relative_to(step_dir).as_posix()] = (path.stat().st_size, digest)
    body = manifest._replace(files=files)._asdict()
    temporary = step_dir / f"{NAME}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"sha256": _digest(body), "body": body}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(step_dir / NAME)
    sync_directory(step_dir)


def read(step_dir: pathlib.Path) -> Manifest:
    """The manifest of a step, checked against its own checksum only. Raises Damaged."""
    try:
        stored = json_files.read(step_dir / NAME)
        body = stored.get("body") if isinstance(stored, dict) else None
        same = isinstance(body, dict) and stored.get("sha256") == _digest(body)
    except FileNotFoundError:
        raise Damaged(f"{NAME} is missing" if os.listdir(step_dir) else "the directory is empty") from None
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or a body nested too deeply to be written again
        raise Damaged(f"{NAME} cannot be read") from None
    if not same:
        raise Damaged(f"{NAME} has changed since it was written")
    if not _fits(body):
        raise Damaged(f"{NAME} is that of another version of this code")
    return Manifest(**body)


def check_sizes(step_dir: pathlib.Path) -> Manifest:
    """The manifest of a step whose files are there with the sizes they had: cheap, and it finds most accidents.

    Raises Damaged.
    """
    manifest = read(step_dir)
    if str(manifest.step) != step_dir.name:
        raise Damaged(f"{NAME} is that of step {manifest.step}")
    for name, (size, _) in manifest.files.items():
        path = step_dir / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if path.stat().st_size != size:
            raise Damaged(f"{name} has {path.stat().st_size} bytes instead of {size}")
    return manifest


def verify(step_dir: pathlib.Path, passed: Callable[[int], object] = int) -> Manifest:
    """The manifest of a step, after every file was read back: about a second per 1.3 GB and core.

    passed: is told how many bytes were read since it was last told.

    Raises Damaged.
    """
    manifest = check_sizes(step_dir)
    for name, (_, digest) in manifest.files.items():
        if _sha256(step_dir / name, passed) != digest:
            raise Damaged(f"{name} has changed since it was written (SHA-256 differs)")
    return manifest


def examined(step_dir: pathlib.Path, check: Callable[[pathlib.Path], Manifest]) -> tuple[Manifest | None, str]:
    """(the manifest of a step that passes a check, ""), or (None, what is wrong with it).

    check: `check_sizes`, `verify` or a function like them.

    Raises UserError for a file that this user may not read.
    """
    try:
        return check(step_dir), ""
    except Damaged as problem:
        return None, str(problem)
    except PermissionError as error:
        raise UserError(f"The checkpoint file {error.filename} may not be read by this user.") from error
    except OSError as error:  # the disk itself refuses
        return None, f"{error.filename} cannot be read: {error.strerror}"


def is_for_good(step_dir: pathlib.Path) -> bool:
    """Whether a step is kept when older ones are deleted; one whose manifest cannot be read may be, and so it is."""
    try:
        return read(step_dir).since == 0
    except (Damaged, OSError):
        return True


def steps(directory: pathlib.Path) -> list[int]:
    """The steps that have a folder in `directory`, newest first, sound or damaged; empty where there is no directory.

    Folders whose name is no step are passed over. Raises UserError where the directory cannot be read.
    """
    if not os.path.isdir(directory):
        return []
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise UserError(f"The checkpoint directory {directory} cannot be read: {error.strerror}.") from error
    return sorted((int(n) for n in names if _STEP.fullmatch(n) and os.path.isdir(directory / n)), reverse=True)


def newest_sound(directory: pathlib.Path) -> tuple[Manifest | None, list[tuple[int, str]]]:
    """The newest step whose files are all as sealed, or None; and (step, problem) of each newer, damaged one."""
    damaged = []
    for step in steps(directory):
        sound, problem = examined(directory / str(step), verify)
        if sound is not None:
            return sound, damaged
        damaged.append((step, problem))
    return None, damaged


def sync_directory(directory: pathlib.Path) -> None:
    """Makes the names in a directory durable: a rename outlives a power cut only after this."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fits(body: dict) -> bool:
    """Whether a body has the fields of a Manifest, and types in `step` and `files` that this file can work with."""
    return (
        body.keys() | Manifest._field_defaults.keys() == set(Manifest._fields)
        and isinstance(body["step"], int)
        and isinstance(body.get("since", 0), int)
        and isinstance(body["files"], dict)
        and all(isinstance(entry, list) and len(entry) == 2 for entry in body["files"].values())
    )


def _sha256(path: pathlib.Path, passed: Callable[[int], object]) -> str:
    """The SHA-256 of a file; passed: see `verify`."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            passed(len(piece))
    return digest.hexdigest()


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
