"""The numbers of a run as they come: metrics.jsonl, one JSON object per line, and the trackers of log.trackers.

A line with an "event" key marks something that happened (the start of a stage); every other line is a logged step.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from experiments.run.trackers import Trackers
from longctx import locks
from longctx.config import Config
from longctx.errors import UserError

FILE = "metrics.jsonl"
# Fields that readers count with: whole numbers, and numbers or null.
_WHOLE = ("step", "stage", "seq_len", "batch_size", "tokens", "skipped")
_NUMBERS = (
    "loss",
    "held_out_loss",
    "grad_norm",
    "learning_rate",
    "tokens_per_s",
    "flops_per_s",
    "mfu",
    "peak_bytes",
    "padding",
    "time_s",
    "compile_s",
    "waste",
)


def read(path: str | Path) -> list[dict]:
    """The records of a metrics file (or of the one in a workdir): see read_counted."""
    return read_counted(path)[0]


def read_counted(path: str | Path) -> tuple[list[dict], int]:
    """(every line that is a record, how many are none); what a crash left half written at the end is not counted.

    Raises UserError where the file cannot be read.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() and path.name != FILE else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    lines = content.splitlines()
    records = [record for line in lines if (record := _parse(line)) is not None]
    torn = bool(lines) and not content.endswith(b"\n") and _parse(lines[-1]) is None
    return records, len(lines) - len(records) - torn


def check_start(workdir: str | Path, start_over: bool) -> None:
    """Raises UserError where steps are logged and the checkpoints are gone; for a workdir without checkpoints.

    A run that was killed before its first checkpoint has its LOCK there.
    """
    workdir = Path(workdir)
    if start_over or any(workdir.glob(f"*/{locks.NAME}")) or not (workdir / FILE).exists():
        return
    if steps := [record["step"] for record in read(workdir / FILE) if "event" not in record]:
        raise UserError(
            f"--workdir={str(workdir)!r} holds {FILE} with step {max(steps)}, but no checkpoint: is the "
            f"disk of its checkpoints there? --config.checkpoint.start_over=True starts again from step 0, "
            f"and keeps that {FILE} under another name."
        )


class Metrics:
    """Appends to workdir/metrics.jsonl, a line at a time, so that a killed process loses none that it wrote.

    resume_step  None for a new run: an existing file is kept under another name. Otherwise the `step` of the last step
                 that the checkpoint holds: later lines, stage events too, are dropped, so that the file reads as if the
                 run had never stopped. A stage that is already in the file is not recorded a second time.
    config       given, its log.trackers get the steps too.
    note         is told, in a line, what is kept, left out, or can no longer be written: that stops no run.

    Raises UserError where the file cannot be begun, or a tracker of a new run.
    """

    def __init__(
        self,
        workdir: str | Path,
        resume_step: int | None = None,
        config: Config | None = None,
        note: Callable[[str], None] = print,
    ):
        self._path, self._note, self._lost = Path(workdir) / FILE, note, 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._kept(resume_step)
            self._stages = {record["stage"] for record in kept if record.get("event") == "stage"}
            _replace(self._path, kept)
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise UserError(f"{error.filename or self._path} cannot be written: {error.strerror}.") from error
        try:
            self._trackers = Trackers(config, self._path.parent, resume_step, note) if config else None
        except UserError:
            self._file.close()
            raise

    def step(self, record: dict) -> None:
        """Records a logged step: `step`, `stage`, `seq_len`, `tokens`, `loss`, `tokens_per_s`, ..."""
        self._write(record)
        if self._trackers:
            self._trackers.step(record)

    def stage(self, record: dict) -> None:
        """Records the start of a stage: `stage`, `seq_len`, `batch_size`, `compile_s`, `waste`, `step`."""
        if record["stage"] not in self._stages:
            self._stages.add(record["stage"])
            self._write({"event": "stage", **record})

    def _write(self, record: dict) -> None:
        """A whole line, or nothing of it where the disk is full."""
        line, end = (dump(record) + "\n").encode(), os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            os.ftruncate(self._file.fileno(), end)
            self._lost += 1
            if self._lost == 1:
                self._note(f"{FILE}: {error.strerror}; step {record['step']} is not recorded, and training goes on")
            return
        if self._lost:
            self._note(f"{FILE}: {self._lost} lines before step {record['step']} could not be written")
            self._lost = 0

    def _kept(self, resume_step: int | None) -> list[dict]:
        if not self._path.exists():
            return []
        if resume_step is None:
            if self._path.stat().st_size:
                self._note(f"{FILE} of an earlier start is now {_moved_away(self._path).name}")
            return []
        records, others = read_counted(self._path)
        if others:
            self._note(f"{FILE}: {others} lines were no records, and are left out")
        return [record for record in records if record["step"] <= resume_step]

    def close(self) -> None:
        """Closes the file and the trackers; more than once is fine."""
        self._file.close()
        if self._trackers:
            self._trackers.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Unrecorded:
    """In place of Metrics in every process but the first: records nothing."""

    def __init__(
        self,
        workdir: str | Path,
        resume_step: int | None = None,
        config: Config | None = None,
        note: Callable[[str], None] = print,
    ):
        pass

    def step(self, record: dict) -> None:
        pass

    def stage(self, record: dict) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def dump(value) -> str:
    """One line of strict JSON: NaN and infinities become null; numpy and jax scalars become numbers."""
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(line: bytes) -> dict | None:
    """The record that a line is; None for one that is torn, no JSON, or holds text where readers take a number."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and _fits(record) else None


def _fits(record: dict) -> bool:
    is_whole = lambda value: type(value) is int and 0 <= value < 2**63
    is_number = lambda value: value is None or isinstance(value, float) or type(value) is int and abs(value) < 2**63
    return (
        "step" in record
        and all(is_whole(record[name]) for name in _WHOLE if name in record)
        and all(is_number(value) for name, value in record.items() if name in _NUMBERS or name.startswith("loss/"))
        and (record.get("event") != "stage" or record.keys() >= {"stage", "seq_len"})
    )


def _moved_away(path: Path) -> Path:
    """The file under the first free name: metrics-1.jsonl, metrics-2.jsonl and so on."""
    number = next(n for n in range(1, 10**6) if not path.with_stem(f"{path.stem}-{n}").exists())
    return path.rename(path.with_stem(f"{path.stem}-{number}"))


def _replace(path: Path, records: list[dict]) -> None:
    """Writes the file anew, so that it is at every moment either the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(dump(record) + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
