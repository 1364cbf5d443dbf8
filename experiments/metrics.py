"""The numbers of a run as they come: metrics.jsonl, one JSON object per line, and TensorBoard events.

A line with an "event" key marks something that happened (the start of a stage); every other line is a logged step.
"""
import json
import math
import os
from pathlib import Path

FILE = "metrics.jsonl"


def read(path: str | Path) -> list[dict]:
    """Every whole line of a metrics file (or of the one in a workdir); what a crash left half written is left out."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    return [record for line in path.read_bytes().splitlines() if (record := _parse(line)) is not None]


def _parse(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:              # torn in the middle of a number, a key, or a UTF-8 character
        return None
    return record if isinstance(record, dict) else None


class Metrics:
    """Appends to workdir/metrics.jsonl, a line at a time, so that a killed process loses none that it wrote.

    resume_step  None for a new run: an existing file starts again. Otherwise the `step` of the last step that the
                 checkpoint holds: later lines, stage events too, are dropped, so that the file reads as if the run had
                 never stopped. A stage that is already in the file is not recorded a second time.
    tensorboard  also write events to workdir/tensorboard.
    """

    def __init__(self, workdir: str | Path, resume_step: int | None = None, tensorboard: bool = True):
        self._path = Path(workdir) / FILE
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = _kept(self._path, resume_step)
        self._stages = {record["stage"] for record in kept if record.get("event") == "stage"}
        _replace(self._path, kept)
        self._file = self._path.open("a", encoding="utf-8")
        self._events = _event_writer(self._path.parent / "tensorboard", resume_step) if tensorboard else None

    def step(self, record: dict) -> None:
        """Records a logged step: `step`, `stage`, `seq_len`, `tokens`, `loss`, `tokens_per_s`, ..."""
        self._write(record)
        if self._events:
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._events.add_scalar(f"train/{name}", value, record["step"])

    def stage(self, record: dict) -> None:
        """Records the start of a stage: `stage`, `seq_len`, `batch_size`, `compile_s`, `waste`, `step`."""
        if record["stage"] not in self._stages:
            self._stages.add(record["stage"])
            self._write({"event": "stage", **record})

    def _write(self, record: dict) -> None:
        self._file.write(dump(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the files; more than once is fine."""
        self._file.close()
        if self._events:
            self._events.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Unrecorded:
    """In place of Metrics in every process but the first: records nothing."""

    def __init__(self, workdir: str | Path, resume_step: int | None = None, tensorboard: bool = True):
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


def _kept(path: Path, resume_step: int | None) -> list[dict]:
    if resume_step is None or not path.exists():
        return []
    return [record for record in read(path) if record.get("step", 0) <= resume_step]


def _replace(path: Path, records: list[dict]) -> None:
    """Writes the file anew, so that it is at every moment either the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(dump(record) + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _event_writer(folder: Path, resume_step: int | None):
    from tensorboardX import SummaryWriter
    purge = None if resume_step is None else resume_step + 1        # TensorBoard hides what was logged from there on
    unique = f".{os.getpid()}.{purge or 0}"         # the name holds the second only: a quick restart would overwrite
    return SummaryWriter(logdir=str(folder), purge_step=purge, filename_suffix=unique)
