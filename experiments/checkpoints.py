"""Lists, verifies, repairs and prunes the checkpoints of a run; it needs no device.

    python -m experiments.checkpoints WORKDIR                      # a table of what is there
    python -m experiments.checkpoints WORKDIR --verify             # reads every byte; exit code 1 for damage
    python -m experiments.checkpoints WORKDIR --repair             # sets damage aside, as the next start would
    python -m experiments.checkpoints WORKDIR --prune 3 --dry-run  # what keeping the newest three would free

The table looks at the sizes of files, --verify at their checksums. --repair also looks at steps that the next start
would not come to; all that it deletes is what a crash left of an unfinished save. --prune keeps the newest sound steps
and those kept for good (checkpoint.keep_every); it deletes older ones and what was set aside. Damaged steps that are
not set aside yet stay. A workdir that a run is using is refused.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import sys
import time
from typing import Any

from experiments.run import command
from experiments.settings.config import CHECKPOINTS
from experiments.settings.console import Parser, phase, table
from longctx import locks
from longctx.checkpoints import directory as directories
from longctx.checkpoints import manifest
from longctx.checkpoints.directory import Found
from longctx.errors import UserError
from longctx.memory.sizes import readable

AXES = "data", "fsdp", "context_outer", "context", "tensor"


def listed(directory: pathlib.Path) -> str:
    """The table of a directory's checkpoints, with a line on how far it was looked."""
    entries = directories.found(directory)
    if not entries:
        return f"{directory} holds no checkpoint yet"
    newest = next((entry for entry in entries if entry.state == "sound"), None)
    rows = [_row(entry, entry is newest) for entry in entries]
    header = ("step", "state", "size", "saved", "stage", "length", "mesh", "remark")
    return f"{table(header, rows)}\n\nlooked at manifests and sizes of files; --verify reads every byte"


def _row(entry: Found, newest: bool) -> tuple[str, ...]:
    remarks = [
        *(["the next start continues here"] if newest else []),
        *(["kept for good"] if entry.sealed and not entry.sealed.since else []),
        *([entry.problem] if entry.problem else []),
        *([entry.path.name] if entry.state in ("unfinished", "set aside") else []),
    ]
    saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.time))
    step = str(entry.step) if entry.step >= 0 else "-"
    return step, entry.state, readable(entry.size), saved, *_of_run(entry.sealed), ", ".join(remarks)


def _of_run(sealed: manifest.Manifest | None) -> tuple[str, str, str]:
    """(stage, counted from 1, its length, mesh) that a manifest says; "-" for what it does not say."""
    meta = sealed.meta if sealed and isinstance(sealed.meta, dict) else {}
    stage, length, axes = meta.get("stage"), "-", "-"
    config: Any = meta.get("config")
    with contextlib.suppress(KeyError, IndexError, TypeError):
        length = f"{config['stages'][stage]['seq_len']:,}"
    with contextlib.suppress(KeyError, AttributeError, TypeError):
        named = {axis: config["mesh"].get(axis, 1) for axis in AXES}
        axes = ", ".join(f"{axis} {size}" for axis, size in named.items() if size > 1) or "1 device"
    return str(stage + 1) if isinstance(stage, int) else "-", length, axes


def verified(directory: pathlib.Path, what: str = "reading checkpoints") -> list[Found]:
    """The steps of a directory after all their files were read, and what else is there; the newest step first."""
    sealed = [entry.sealed for entry in directories.found(directory) if entry.sealed]
    with phase(what, size=sum(size for one in sealed for size, _ in one.files.values())) as passed:
        return directories.found(directory, functools.partial(manifest.verify, passed=passed))


def verify(directory: pathlib.Path) -> bool:
    """Prints what is wrong with each damaged step, and a summary; returns whether nothing is damaged."""
    entries = verified(directory)
    sound, damaged = _of(entries, "sound"), _of(entries, "damaged")
    for entry in damaged:
        print(f"step {entry.step} is damaged: {entry.problem}")
    unfinished = sum(entry.state == "unfinished" for entry in entries)
    print(
        f"{len(sound)} sound steps ({readable(sum(entry.size for entry in sound))}), {len(damaged)} damaged, "
        f"{unfinished} unfinished"
        + (f"; the next start continues at step {sound[0].step}" if sound else "")
        + ("; --repair sets aside what is damaged" if damaged and sound else "")
    )
    return not damaged


def repair(directory: pathlib.Path) -> None:
    """Sets damaged steps aside, removes what crashes left unfinished, and prints a line for each.

    Raises UserError, and changes nothing, where no step is sound though there were some.
    """
    entries = verified(directory)
    sound = _require_sound(directory, entries)
    lines = [f"step {step}: an unfinished save was removed" for step in directories.remove_leftovers(directory)]
    for entry in _of(entries, "damaged"):
        lines.append(directories.set_aside(directory, entry.step, entry.problem, f"step {sound[0].step} is used"))
    print(*(lines or ["nothing to repair"]), sep="\n")
    if sound:
        print(f"the next start continues at step {sound[0].step}")


def prune(directory: pathlib.Path, keep: int, dry_run: bool) -> None:
    """Deletes all sound steps but the newest `keep` and those kept for good, and what was set aside; prints each.

    The steps that stay are read first: none is deleted for the sake of one that is damaged. dry_run: only prints.

    Raises UserError, and deletes nothing, where no step is sound though there were some.
    """
    entries, older = directories.found(directory), []
    with phase("reading the checkpoints that stay"):
        for i, entry in enumerate(entries):
            if entry.state == "sound" and len(_of(entries[:i], "sound")) < keep:
                problem = manifest.examined(entry.path, manifest.verify)[1]
                entries[i] = entry._replace(state="damaged", problem=problem) if problem else entry
            elif entry.sealed and entry.sealed.since:
                older.append(entry)
    _require_sound(directory, entries)
    doomed = [*older, *_of(entries, "set aside")]
    for entry in doomed:
        if not dry_run:
            _delete(entry)
        print(f"{'would delete' if dry_run else 'deleted'} {entry.path.name}, {readable(entry.size)}")
    freed = readable(sum(entry.size for entry in doomed))
    print(f"{'would free' if dry_run else 'freed'} {freed} in {directory}")
    for entry in _of(entries, "damaged"):
        print(f"step {entry.step} is damaged ({entry.problem}) and stays; --repair sets it aside")


def _delete(entry: Found) -> None:
    try:
        directories.delete(entry.path)
    except OSError as error:
        raise UserError(f"{entry.path} cannot be deleted: {error.strerror}.") from error


def _of(entries: list[Found], state: str) -> list[Found]:
    return [entry for entry in entries if entry.state == state]


def _require_sound(directory: pathlib.Path, entries: list[Found]) -> list[Found]:
    """The sound ones of the entries. Raises UserError where there are none, but damaged ones or such set aside."""
    sound, damaged = _of(entries, "sound"), _of(entries, "damaged")
    if not sound and (damaged or _of(entries, "set aside")):
        raise directories.no_sound_step(directory, [(entry.step, entry.problem) for entry in damaged])
    return sound


def _options(argv: list[str]) -> argparse.Namespace:
    parser = Parser(str(__doc__))
    parser.add_argument("workdir", metavar="WORKDIR", help="the folder of a run")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print a table of the checkpoints; the default")
    what.add_argument("--verify", action="store_true", help="read every byte")
    what.add_argument("--repair", action="store_true", help="set aside what is damaged or unfinished")
    what.add_argument("--prune", type=int, metavar="N", help="keep the newest N sound steps")
    parser.add_argument("--dry-run", action="store_true", help="with --prune: only print what would be freed")
    options = parser.parse_args(argv)
    if options.prune is not None and options.prune < 1:
        raise UserError(f"--prune={options.prune} would keep nothing to continue from; it must be at least 1.")
    if options.dry_run and options.prune is None:
        raise UserError("--dry-run belongs to --prune N; --list and --verify change nothing in any case.")
    return options


def _held(workdir: pathlib.Path, directory: pathlib.Path, reads: bool) -> contextlib.AbstractContextManager:
    """The lock of a workdir's checkpoints. reads: what may only be read is taken without one: no run can be there.

    Raises UserError while a run holds it.
    """
    if reads and not os.access(directory / locks.NAME, os.W_OK):
        return contextlib.nullcontext()
    return locks.take(directory, f"workdir={str(workdir)!r}", "wait for the end of its run, or stop it")


def main(argv) -> None:
    options = _options(argv[1:])
    workdir = pathlib.Path(options.workdir)
    directory = workdir / CHECKPOINTS
    if not directory.is_dir():
        raise UserError(f"workdir={str(workdir)!r} holds no {CHECKPOINTS}/; give the folder of a run.")
    changes = options.repair or options.prune is not None
    with _held(workdir, directory, reads=not changes):
        if options.verify:
            sys.exit(0 if verify(directory) else 1)
        elif options.repair:
            repair(directory)
        elif options.prune is not None:
            prune(directory, options.prune, options.dry_run)
        else:
            print(listed(directory))


if __name__ == "__main__":
    command.run(main)
