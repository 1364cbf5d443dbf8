"""The directory of a run's checkpoints: what is in it, and how a step is set aside or deleted. Free of jax.

LOCK                  held by the one run that writes here; the kernel releases it however that run ends
120/                  a step: state/ (orbax), MANIFEST.json (longctx/checkpoints/manifest.py)
damaged-00000120/     a step that failed verification, set aside
*.orbax-checkpoint-tmp, deleting-*     left by a crash; removed at the next start
"""

import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import NamedTuple, TextIO

from longctx import locks
from longctx.checkpoints import manifest
from longctx.errors import UserError

TEMPORARY = ".orbax-checkpoint-tmp"
DELETING = "deleting-"
DAMAGED = "damaged-"
ASIDE = "aside-"
_ASIDE = re.compile(rf"(?:{DAMAGED}|{ASIDE}|{ASIDE}{DAMAGED})(\d+)(-\d+)?")


class Found(NamedTuple):
    """A folder in a directory of checkpoints.

    Attributes:
      step: its step; -1 for a deletion that a crash cut short.
      state: "sound", "damaged", "unfinished" (a save or a deletion that a crash cut short) or "set aside".
      problem: what is wrong with a damaged step; "" for any other.
      size: bytes of its files.
      time: seconds since the epoch at which it was sealed, or last changed.
      sealed: the manifest of a sound step.
    """

    path: pathlib.Path
    step: int
    state: str
    problem: str
    size: int
    time: float
    sealed: manifest.Manifest | None


def local(directory: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path of a directory. Raises UserError for an address such as gs://bucket."""
    if "://" in str(directory):
        raise UserError(f"The checkpoint directory {directory} must be on a mounted file system (for locks).")
    return pathlib.Path(directory).absolute()


def take_lock(directory: pathlib.Path) -> TextIO:
    """The lock of a directory, see locks.take."""
    return locks.take(directory, f"The checkpoint directory {directory}", "stop it, or choose another --workdir")


def found(
    directory: pathlib.Path, check: Callable[[pathlib.Path], manifest.Manifest] = manifest.check_sizes
) -> list[Found]:
    """Everything in a directory that a save, a damage or a crash left, the newest step first.

    check: step folder -> its manifest, raising manifest.Damaged; manifest.verify reads every byte.

    Raises UserError where the directory, or a file in it, may not be read.
    """
    entries = [_step(directory / str(step), check) for step in manifest.steps(directory)]
    for path in leftovers(directory):
        name = path.name.partition(TEMPORARY)[0]
        entries.append(_other(path, int(name) if name.isdecimal() else -1, "unfinished"))
    entries += [_other(path, step, "set aside") for path, step in aside(directory)]
    return sorted(entries, key=lambda entry: (entry.step, entry.path.name), reverse=True)


def leftovers(directory: pathlib.Path) -> list[pathlib.Path]:
    """The left-overs of saves and deletions that a crash cut short."""
    return [path for path in directory.iterdir() if TEMPORARY in path.name or path.name.startswith(DELETING)]


def aside(directory: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
    """(folder, step) of what was set aside."""
    names = [(path, _ASIDE.fullmatch(path.name)) for path in directory.iterdir()]
    return [(path, int(match[1])) for path, match in names if match and path.is_dir()]


def remove_leftovers(directory: pathlib.Path) -> list[int]:
    """Removes the left-overs of crashed saves and deletions; returns the steps whose saves were unfinished."""
    paths = leftovers(directory)
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    steps = [path.name.partition(TEMPORARY)[0] for path in paths]
    return sorted(int(step) for step in steps if step.isdecimal())


def set_aside(directory: pathlib.Path, step: int, problem: str, instead: str) -> str:
    """Renames a damaged step to damaged-STEP and returns the line that says so.

    problem, instead: for the line, what is wrong with it, and what is used in its place.

    Raises UserError where it cannot be renamed.
    """
    to = _renamed(directory / str(step), f"{DAMAGED}{step:08d}", f"is damaged ({problem}) and ")
    return f"step {step} is damaged ({problem}); it is now {to.name}, and {instead}"


def go_back(directory: pathlib.Path, step: int | None) -> list[str]:
    """Sets aside what the next start is not to continue from; returns a line that names it, if there is any.

    step: the one to continue from, which is verified first; None: none of them, and damaged ones do not matter then.

    Raises UserError, and changes nothing, where that step is not sound; and where a folder cannot be renamed.
    """
    later = [other for other in manifest.steps(directory) if step is None or other > step]
    if step is not None and (problem := manifest.examined(directory / str(step), manifest.verify)[1]):
        raise UserError(f"Step {step} in {directory} is damaged ({problem}); continue from another one.")
    moved = [_renamed(directory / str(other), f"{ASIDE}{other:08d}") for other in later]
    for path, _ in aside(directory) if step is None else ():
        if path.name.startswith(DAMAGED):
            moved.append(_renamed(path, f"{ASIDE}{path.name}"))
    return [f"set aside: {', '.join(path.name for path in moved)}"] if moved else []


def _renamed(path: pathlib.Path, name: str, what: str = "") -> pathlib.Path:
    """The new path of a folder that is renamed, with a number where there is one of that name.

    what: for the error, what is wrong with it. Raises UserError.
    """
    earlier = sum(1 for _ in path.parent.glob(f"{name}*"))
    try:
        return path.rename(path.with_name(f"{name}-{earlier + 1}" if earlier else name))
    except OSError as error:
        raise UserError(f"The checkpoint {path} {what}cannot be set aside: {error.strerror}.") from error


def delete(path: pathlib.Path) -> None:
    """Deletes the folder of a step, or of what was set aside. Raises OSError where it cannot be renamed.

    First a rename: a kill half-way must not leave a step with files missing.
    """
    name = f"{int(path.name):08d}" if path.name.isdecimal() else path.name
    shutil.rmtree(path.rename(path.with_name(f"{DELETING}{name}")), ignore_errors=True)


def no_sound_step(directory: pathlib.Path, damaged: list[tuple[int, str]]) -> UserError:
    """The error for a directory without a sound step. damaged: (step, what is wrong with it)."""
    problems = "; ".join(f"step {step}: {problem}" for step, problem in damaged)
    if not problems and not any(directory.glob(f"{DAMAGED}*")):
        return UserError(f"There is no checkpoint in {directory}.")
    return UserError(
        f"No checkpoint in {directory} is sound ({problems or f'only {DAMAGED}* are left'}). Bring one "
        "back, or choose another --workdir to start afresh."
    )


def _step(path: pathlib.Path, check: Callable[[pathlib.Path], manifest.Manifest]) -> Found:
    sealed, problem = manifest.examined(path, check)
    return _other(path, int(path.name), "damaged" if problem else "sound", problem)._replace(sealed=sealed)


def _other(path: pathlib.Path, step: int, state: str, problem: str = "") -> Found:
    seal = path / manifest.NAME
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Found(path, step, state, problem, size, (seal if seal.exists() else path).stat().st_mtime, None)
