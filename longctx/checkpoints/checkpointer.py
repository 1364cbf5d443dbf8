"""Checkpoints: written by orbax in the background, sealed by a manifest, and trusted only after they are read back.

    with Checkpointer(directory, keep=2) as checkpoints:
        restored = checkpoints.restore_latest(abstract(state))   # None: no checkpoint yet
        for step in ...:
            checkpoints.poll()                                   # an asynchronous failure surfaces here
            checkpoints.save(step, state, data, meta)

What a directory holds is in longctx/checkpoints/directory.py. A step gets its manifest before orbax renames it into
place, so a kill at any moment leaves either a sealed step or a left-over. Older steps are deleted only after a newer
one is sealed, and a state that is not finite is never saved. SIGKILL, full disks, damaged files and directories that
vanish are tested on a local disk. Of several processes, which must all see the directory, process 0 alone locks,
verifies, seals and deletes, and what is wrong with the directory is its error alone. Not tested: power cuts and network
file systems.
"""

import json
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np

from longctx import locks
from longctx.checkpoints import directory as directories
from longctx.checkpoints import manifest
from longctx.errors import UserError
from longctx.memory import host
from longctx.memory.sizes import readable

# What tensorstore (ValueError), orbax and the file system (OSError) raise. Errors of the computation whose result is
# being saved are jax.errors.JaxRuntimeError and pass through untouched.
_STORAGE_ERRORS = (ValueError, OSError)
_NONE = -1  # sent between processes in place of a step


class Restored(NamedTuple):
    """A checkpoint as it was saved. `notes`: a line for each problem met while it was found."""

    step: int
    state: Any
    data: Any
    meta: Any
    notes: tuple[str, ...]


class Checkpointer:
    """The checkpoints of one run, in one directory on a file system with locks (POSIX).

    Attributes:
      notes: a line for each problem that was found and mended.

    Args:
      directory: created if need be.
      keep: how many sealed steps stay (one more during a save).
      keep_every: the how many-th saved step is kept for good, as its manifest says; 0: none.

    Raises:
      UserError: where the directory is in use or unusable, or a save fails.
    """

    def __init__(self, directory, keep: int = 2, keep_every: int = 0):
        if keep < 1:
            raise UserError(f"checkpoint.keep={keep} would keep nothing; it must be at least 1.")
        if keep_every < 0:
            raise UserError(f"checkpoint.keep_every={keep_every} must be at least 0; 10 keeps every tenth saved step.")
        self.directory = directories.local(directory)
        self.notes: list[str] = []
        self._keep, self._keep_every = keep, keep_every
        self._since = 0  # saves since the last one that is kept for good
        self._primary = jax.process_index() == 0
        self._manager = None  # orbax's CheckpointManager, made for the first save
        self._pending: manifest.Manifest | None = None  # the save in flight
        self._deletes = True  # and whether it takes the place of older ones
        self._lock = directories.take_lock(self.directory) if self._primary else None
        self.notes += [f"step {step}: an unfinished save was removed" for step in self._remove_leftovers()]

    def go_back(self, step: int | None) -> None:
        """Sets aside all steps that are later than one to continue from, or all there are for None; notes say so.

        Call it before `restore_latest`. Raises UserError where that step is not sound.
        """
        if self._primary:
            self.notes += directories.go_back(self.directory, step)

    def restore_latest(self, abstract_state) -> Restored | None:
        """The newest sound checkpoint, placed as `abstract_state` (ShapeDtypeStructs with shardings) says.

        Newer damaged steps are set aside and named in the notes. Any mesh and number of devices will do; names, shapes
        and dtypes must be exactly those saved. Returns None where there is no checkpoint. Raises UserError where all
        are damaged or the state differs.
        """
        sound, damaged = _newest_sound(self.directory)
        if sound is None:
            if damaged or any(self.directory.glob(f"{directories.DAMAGED}*")):
                raise directories.no_sound_step(self.directory, damaged)
            return None
        for step, problem in damaged:
            self._set_aside(step, problem, f"step {sound.step} is used")
        state = _read_state(self.directory, sound, abstract_state, whole=True)
        self._since = sound.since
        return Restored(sound.step, state, sound.data, sound.meta, tuple(self.notes))

    def save(self, step: int, state, data, meta, in_place_of_older: bool = True) -> None:
        """Starts saving `state` (tree of arrays) with `data` and `meta` (JSON-able); returns once they are copied.

        The arrays may be donated afterwards. Waits for the save before, and raises its failure. A step that is sealed
        already is left as it is. in_place_of_older: whether all but the newest `keep` steps are deleted after this one
        is sealed.

        Raises UserError for a state with a number that is not finite.
        """
        self.wait()
        if from_process_0(int(self._primary and self._holds(step))):
            return
        _require_finite(step, state)
        import orbax.checkpoint as ocp

        data, meta = json.loads(json.dumps([data, meta]))  # a copy: the manifest is written later
        _require_space(self.directory, step, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        self._manager = self._manager or self._make_manager()
        self._manager.reload()  # it remembers what is in the directory
        for_good = 0 < self._keep_every <= self._since + 1
        self._pending = manifest.Manifest(step, {}, _describe(state), data, meta, 0 if for_good else self._since + 1)
        self._deletes = in_place_of_older
        try:
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), force=True)
        except _STORAGE_ERRORS as error:
            raise self._failure(error) from error

    def poll(self) -> None:
        """Takes note of a save that has ended: raises its failure, or deletes the oldest step. Cheap: call it often."""
        if self._pending and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns once everything is durable and sealed; raises UserError for a save that failed."""
        if not self._pending:
            return
        step_dir = self.directory / str(self._pending.step)
        try:
            self._manager.wait_until_finished()
            manifest.read(step_dir)  # orbax must have run _seal: what counts is what is on the disk
        except manifest.Damaged as problem:
            raise self._failure(OSError(str(problem))) from problem
        except _STORAGE_ERRORS as error:
            raise self._failure(error) from error
        step, self._since, self._pending = self._pending.step, self._pending.since, None
        if self._primary:
            manifest.sync_directory(self.directory)
            sealed = [other for other in manifest.steps(self.directory) if other <= step]  # a later one is no step yet
            for old in sealed[self._keep :] if self._deletes else ():
                if not manifest.is_for_good(self.directory / str(old)):
                    self._delete(old)

    def close(self) -> None:
        """Waits for the save in flight and releases the directory. Raises UserError if that save failed."""
        try:
            self.wait()
        finally:
            if self._manager:
                self._manager.close()
                self._manager = None
            if self._lock:
                self._lock.close()
                self._lock = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.close()
        except UserError as problem:
            if error is None:
                raise
            error.add_note(str(problem))  # the error in flight is the one to show

    def _make_manager(self):
        import orbax.checkpoint as ocp

        # No max_to_keep: orbax would delete old steps before the new one is known to be sealed.
        options = ocp.CheckpointManagerOptions(
            create=False,
            save_root_metadata=False,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def _seal(self) -> None:
        """Runs in orbax's thread on process 0: all processes have written, and the step has not got its name yet."""
        step = str(self._pending.step)
        staged = self.directory / (step + directories.TEMPORARY)
        manifest.write(staged if staged.exists() else self.directory / step, self._pending)

    def _failure(self, error: Exception) -> UserError:
        """Drops the failed save, frees its space, and returns the error that says what went wrong."""
        step, self._pending = self._pending.step, None
        if not os.path.isdir(self.directory):
            return _gone(self.directory, step)
        free = readable(_free(self.directory, step))
        self._remove_leftovers()
        return UserError(
            f"The checkpoint of step {step} could not be written to {self.directory}: {_reason(error)} "
            f"({free} free there). Earlier ones are intact: make room, or choose another --workdir."
        )

    def _holds(self, step: int) -> bool:
        """Whether `step` is sealed. A folder of that name without a seal is set aside, so that the step can be saved.

        Raises UserError where the directory is gone, or where another process locked it after LOCK was removed.
        """
        if not os.path.isdir(self.directory):
            raise _gone(self.directory, step)
        if not locks.is_at(self._lock, self.directory):
            self._lock.close()
            self._lock = directories.take_lock(self.directory)
        if not (self.directory / str(step)).exists():
            return False
        try:
            manifest.read(self.directory / str(step))
        except (manifest.Damaged, OSError) as problem:
            self._set_aside(step, _reason(problem), "the run's own takes its place")
            return False
        return True

    def _remove_leftovers(self) -> list[int]:
        """directory.remove_leftovers, by process 0."""
        return directories.remove_leftovers(self.directory) if self._primary else []

    def _delete(self, step: int) -> None:
        try:
            directories.delete(self.directory / str(step))
        except OSError as error:
            self.notes.append(f"step {step} could not be deleted: {error.strerror}")

    def _set_aside(self, step: int, problem: str, instead: str) -> None:
        self.notes.append(directories.set_aside(self.directory, step, problem, instead))


def load_latest(directory, abstract_state) -> Restored:
    """The newest sound checkpoint, read without a lock or a change: for evaluation, also while a run is writing.

    `abstract_state` may be a part of what was saved, such as {"params": ...}. Raises UserError where no step is sound.
    """
    directory = directories.local(directory)
    sound, damaged = _newest_sound(directory)
    if sound is None:
        raise directories.no_sound_step(directory, damaged)
    notes = tuple(f"step {step} is damaged ({problem}); step {sound.step} is used" for step, problem in damaged)
    state = _read_state(directory, sound, abstract_state, whole=False)
    return Restored(sound.step, state, sound.data, sound.meta, notes)


def _newest_sound(directory: pathlib.Path) -> tuple[manifest.Manifest | None, list[tuple[int, str]]]:
    """manifest.newest_sound of process 0; the other processes read that step's manifest and hear of no damage."""
    sound, damaged = manifest.newest_sound(directory) if jax.process_index() == 0 else (None, [])
    step = from_process_0(sound.step if sound else _NONE)
    return sound or (None if step == _NONE else manifest.read(directory / str(step))), damaged


def abstract(state):
    """The shapes, dtypes and shardings of a tree of arrays, as restore_latest needs them to place a checkpoint."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _read_state(directory: pathlib.Path, sound: manifest.Manifest, abstract_state, whole: bool):
    """The arrays of a verified step. Names, shapes and dtypes are compared first: orbax would cast without a word.

    whole: whether `abstract_state` must name every array of the step.
    """
    import orbax.checkpoint as ocp

    step_dir = directory / str(sound.step)
    _check_leaves(step_dir, sound.leaves, _describe(abstract_state), whole)
    args = ocp.args.PyTreeRestore(
        abstract_state,
        partial_restore=not whole,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_state),
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        try:
            return reader.restore(step_dir / "state", args=args)
        except _STORAGE_ERRORS as error:
            raise UserError(f"The checkpoint {step_dir} is sound and yet cannot be read: {_reason(error)}.") from error


def _check_leaves(step_dir: pathlib.Path, stored: dict[str, str], wanted: dict[str, str], whole: bool) -> None:
    names = stored.keys() | wanted.keys() if whole else wanted.keys()
    differing = sorted(name for name in names if stored.get(name) != wanted.get(name))
    if differing:
        first = differing[0]
        more = f" ({len(differing) - 1} more leaves differ)" if len(differing) > 1 else ""
        raise UserError(
            f"The checkpoint {step_dir} does not fit: {first} is {stored.get(first, 'absent')} in it and "
            f"{wanted.get(first, 'absent')} now{more}. Take the model and optim settings it was saved "
            "with, or choose another --workdir."
        )


def _describe(state) -> dict[str, str]:
    """{dotted name: "dtype[shape]"} of the leaves of a tree of arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _require_finite(step: int, state) -> None:
    """Raises UserError for a state with a number that is not finite; arrays in host memory are read part by part."""
    finite = jax.device_get(_finite(jax.tree.leaves(state)))
    bad = [name for name, good in zip(_describe(state), finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - 1} more leaves hold numbers that are" if len(bad) > 1 else " holds a number that is"
        raise UserError(
            f"The state of step {step} is not saved: {bad[0]}{more} not finite. Earlier "
            "checkpoints are intact: lower optim.learning_rate, or look at the data or the weights that "
            "the run started from."
        )


@jax.jit
def _finite(arrays):
    return [host.finite(x) for x in arrays]


def _require_space(directory: pathlib.Path, step: int, state_bytes: int) -> None:
    needed, free = state_bytes + state_bytes // 20 + 2**20, _free(directory, step)
    if free < needed:
        raise UserError(
            f"The checkpoint of step {step} needs {readable(needed)} in {directory} and {readable(free)} "
            "are free: make room, lower checkpoint.keep, or choose another --workdir."
        )


def _free(directory: pathlib.Path, step: int) -> int:
    try:
        return shutil.disk_usage(directory).free
    except OSError as error:
        raise _gone(directory, step) from error


def _gone(directory: pathlib.Path, step: int) -> UserError:
    return UserError(
        f"The checkpoint of step {step} could not be written: {directory} was removed, or its disk "
        "unmounted, while the run was using it. Bring it back, or choose another --workdir."
    )


def from_process_0(number: int) -> int:
    """Process 0's `number`, below 2**31, on every process. A collective: all processes must call it."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _reason(error: Exception) -> str:
    """The operating system's words inside a tensorstore message, or the message's first line, shortened."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    system = re.search(r"([^:\[]+) \[os_error_code", text)
    return system[1].strip() if system else text.strip().partition("\n")[0][:200]
