"""Where the numbers of a run go beside metrics.jsonl: trackers by name, which log.trackers lists.

To add one: a class here with the methods of Tracker, and a line in TRACKERS. A package of a tracker is imported where
the tracker is asked for, and nowhere else.
"""

import dataclasses
import importlib.util
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from experiments.settings.fields import leaves
from longctx.config import Config
from longctx.errors import UserError, unknown_name
from longctx.json_files import read_object

PROJECT = "longctx"  # of W&B, and the experiment of MLflow, where the environment names no other
IDS = "trackers.json"  # in the workdir: by the tracker's name, the id of the run there
PARAMS = 100  # that MLflow takes at once
LETTERS = 500  # of a parameter's value, the most that every MLflow server takes


class Tracker(Protocol):
    """A place that the numbers of a run are sent to, by process 0.

    package: what pip installs for it. failures: exceptions by which it says that it could not.
    """

    package: str

    @property
    def failures(self) -> tuple[type[Exception], ...]: ...

    def start(self, workdir: Path, config: Config, resume_step: int | None) -> None:
        """Begins, or goes on with, the run of this workdir. resume_step: the last step it keeps; None for a new run."""
        ...

    def step(self, record: dict) -> None:
        """Takes a logged step, as Metrics.step documents it."""
        ...

    def close(self) -> None:
        """Sends what has not been sent."""
        ...


class TensorBoard:
    """Events in workdir/tensorboard, on the disk within EVERY_S.

    (tensorboardX's SummaryWriter writes in a thread: when the disk is full that ends, and the 11th event after it waits
    for ever.)
    """

    EVERY_S = 30.0
    package = "tensorboardX"
    failures = (OSError,)

    def start(self, workdir: Path, config: Config, resume_step: int | None) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        later = None if resume_step is None else resume_step + 1  # TensorBoard hides what was logged from there on
        unique = f".{os.getpid()}.{later or 0}"  # the name holds the second only: a quick restart would overwrite
        self._writer = EventsWriter(str(folder / "events"), unique)
        if later is not None:
            restart = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=later, session_log=restart))
        self.close()

    def step(self, record: dict) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers(record).items()]
        self._writer.write_event(Event(wall_time=time.time(), step=record["step"], summary=Summary(value=values)))
        if time.monotonic() - self._flushed > self.EVERY_S:
            self.close()

    def close(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()


class WandB:
    """A run of Weights & Biases, in the project WANDB_PROJECT or else PROJECT; its files are in workdir/wandb.

    Steps that are taken again after a restart are not sent again: W&B keeps the first numbers of a step.
    """

    package = "wandb"

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        import wandb

        return (OSError, wandb.errors.Error)

    def start(self, workdir: Path, config: Config, resume_step: int | None) -> None:
        import wandb

        kept = None if resume_step is None else kept_id(workdir, "wandb")
        identity = kept or secrets.token_hex(4)
        keep_id(workdir, "wandb", identity)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=config.name,
            config=flat(config),
            dir=str(workdir),
            id=identity,
            resume="allow",
            allow_val_change=True,  # a restart may change the mesh, and what else changes no result
        )

    def step(self, record: dict) -> None:
        self._run.log(numbers(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, in the experiment MLFLOW_EXPERIMENT_NAME or else PROJECT, at MLFLOW_TRACKING_URI."""

    package = "mlflow"

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        import mlflow

        return (OSError, mlflow.exceptions.MlflowException)

    def start(self, workdir: Path, config: Config, resume_step: int | None) -> None:
        import mlflow

        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        kept = None if resume_step is None else kept_id(workdir, "mlflow")
        if kept:
            mlflow.start_run(run_id=kept)
            return
        keep_id(workdir, "mlflow", mlflow.start_run(run_name=config.name).info.run_id)
        params = [(mlflow_name(name), str(value)[:LETTERS]) for name, value in flat(config).items()]
        for first in range(0, len(params), PARAMS):
            mlflow.log_params(dict(params[first : first + PARAMS]))

    def step(self, record: dict) -> None:
        import mlflow

        # a file store keeps train/loss in a file, beside which there is no folder for train/loss/text
        named = {name.replace("loss/", "loss."): value for name, value in numbers(record).items()}
        mlflow.log_metrics(named, step=record["step"])

    def close(self) -> None:
        import mlflow

        mlflow.end_run()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def check(config: Config) -> None:
    """Raises UserError for a name in log.trackers that TRACKERS does not hold, or whose package is not installed."""
    for i, name in enumerate(config.log.trackers):
        if name not in TRACKERS:
            raise unknown_name(f"log.trackers[{i}]", name, TRACKERS)
        package = TRACKERS[name].package
        if importlib.util.find_spec(package) is None:
            raise UserError(f"log.trackers[{i}]={name!r}: {package} is not installed: pip install {package}")


class Trackers:
    """The trackers of a run. One that fails is left out from then on, and `note` is told so in a line.

    Raises UserError where one cannot begin with a new run. A run that goes on goes on without it.
    """

    def __init__(self, config: Config, workdir: Path, resume_step: int | None, note: Callable[[str], None]):
        self._note, self._active = note, {}
        for name in config.log.trackers:
            self._active[name] = tracker = TRACKERS[name]()
            try:
                tracker.start(workdir, config, resume_step)
            except tracker.failures as error:
                if resume_step is None:
                    raise UserError(
                        f"log.trackers={config.log.trackers}: {name} cannot begin: {_said(error)}"
                    ) from error
                self._drop(name, error)

    def step(self, record: dict) -> None:
        """Sends a logged step to each."""
        self._each(lambda tracker: tracker.step(record))

    def close(self) -> None:
        """Closes each; more than once is fine."""
        self._each(lambda tracker: tracker.close())
        self._active = {}

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._active.items()):
            try:
                do(tracker)
            except tracker.failures as error:
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        del self._active[name]
        self._note(f"{name}: {_said(error)}; it gets no more numbers, and training goes on")


def _said(error: Exception) -> str:
    """The message of an error in a line; of the system's errors without a number."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def numbers(record: dict) -> dict[str, float]:
    """The numbers of a logged step by the names that trackers have for them: train/loss and so on."""
    return {
        f"train/{name}": value for name, value in record.items() if name != "step" and isinstance(value, int | float)
    }


def flat(config: Config) -> dict[str, Any]:
    """All settings by their paths, such as "stages[0].seq_len"."""
    return leaves(dataclasses.asdict(config))


def mlflow_name(path: str) -> str:
    """The path of a setting in letters that MLflow allows: stages.0.seq_len."""
    return path.replace("[", ".").replace("]", "")


def kept_id(workdir: Path, tracker: str) -> str | None:
    """The id of the run of a workdir at a tracker; None where none is kept."""
    path = workdir / IDS
    return read_object(path).get(tracker) if path.exists() else None


def keep_id(workdir: Path, tracker: str, identity: str) -> None:
    """Keeps the id for the next start."""
    path = workdir / IDS
    kept = read_object(path) if path.exists() else {}
    path.write_text(json.dumps(kept | {tracker: identity}) + "\n")
