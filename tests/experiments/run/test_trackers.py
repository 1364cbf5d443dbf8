"""Trackers: what W&B and MLflow are sent, by fakes with the signatures of their manuals, and what failures do."""

import importlib.machinery
import json
import sys
import types

import pytest

from experiments.run import trackers
from experiments.run.metrics import Metrics, read
from longctx.config import Config, LogConfig, StageConfig
from longctx.errors import UserError


def using(*names) -> Config:
    return Config(name="mine", log=LogConfig(trackers=names), stages=(StageConfig(seq_len=64, steps=3),))


class Calls(list):
    """The calls of a fake, each (name, arguments); those named in `failing` raise instead."""

    def __init__(self, error):
        self.error, self.failing = error, set()

    def take(self, name, /, **arguments):
        if name in self.failing:
            raise self.error("the server is gone.\nat line 7")
        self.append((name, arguments))

    def of(self, name) -> list[dict]:
        return [arguments for called, arguments in self if called == name]


def installed(monkeypatch, name, **members):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def wandb(monkeypatch):
    class Error(Exception):
        pass

    calls = Calls(Error)

    class Run:
        def log(self, data, step=None, commit=None):
            calls.take("log", data=data, step=step)

        def finish(self, exit_code=None):
            calls.take("finish")

    def init(
        *, entity=None, project=None, dir=None, id=None, name=None, config=None, allow_val_change=None, resume=None
    ):
        calls.take("init", project=project, dir=dir, id=id, name=name, config=config, resume=resume)
        return Run()

    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    installed(monkeypatch, "wandb", init=init, errors=types.SimpleNamespace(Error=Error))
    return calls


@pytest.fixture
def mlflow(monkeypatch):
    class MlflowException(Exception):
        pass

    calls = Calls(MlflowException)

    def set_experiment(experiment_name=None, experiment_id=None):
        calls.take("set_experiment", experiment_name=experiment_name)

    def start_run(run_id=None, experiment_id=None, run_name=None, nested=False):
        calls.take("start_run", run_id=run_id, run_name=run_name)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "run7"))

    def log_params(params, synchronous=None, run_id=None):
        calls.take("log_params", params=params)

    def log_metrics(metrics, step=None, synchronous=None, run_id=None):
        calls.take("log_metrics", metrics=metrics, step=step)

    def end_run(status="FINISHED"):
        calls.take("end_run")

    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    functions = (set_experiment, start_run, log_params, log_metrics, end_run)
    errors = types.SimpleNamespace(MlflowException=MlflowException)
    installed(monkeypatch, "mlflow", exceptions=errors, **{function.__name__: function for function in functions})
    return calls


def log(workdir, config, steps, resume_step=None) -> list[str]:
    """The notes of a start that logs these steps."""
    notes = []
    with Metrics(workdir, resume_step, config, notes.append) as metrics:
        metrics.stage({"stage": 0, "seq_len": 64, "step": 0})
        for step in steps:
            metrics.step({"step": step, "loss": 1 / step, "loss/text": 0.5, "held_out_loss": None, "seq_len": 64})
    return notes


def test_wandb_gets_one_run_of_two_starts(wandb, tmp_path):
    config = using("wandb")
    assert log(tmp_path, config, (1, 2)) == log(tmp_path, config, (3,), resume_step=2) == []
    first, second = wandb.of("init")
    assert {"project": "longctx", "name": "mine", "dir": str(tmp_path), "resume": "allow"}.items() <= first.items()
    assert first["config"]["stages[0].seq_len"] == 64 and first["config"]["model.layers"] == 4
    assert first["id"] == second["id"] == json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    assert [call["step"] for call in wandb.of("log")] == [1, 2, 3] and len(wandb.of("finish")) == 2
    assert wandb.of("log")[1]["data"] == {"train/loss": 0.5, "train/loss/text": 0.5, "train/seq_len": 64}
    log(tmp_path, config, (1,))  # from the beginning: another run
    assert wandb.of("init")[2]["id"] != first["id"]


def test_mlflow_gets_one_run_of_two_starts(mlflow, tmp_path):
    config = using("mlflow")
    assert log(tmp_path, config, (1, 2)) == log(tmp_path, config, (3,), resume_step=2) == []
    assert mlflow.of("set_experiment") == [{"experiment_name": "longctx"}] * 2
    assert mlflow.of("start_run") == [{"run_id": None, "run_name": "mine"}, {"run_id": "run7", "run_name": None}]
    params = [call["params"] for call in mlflow.of("log_params")]
    assert max(map(len, params)) <= 100 and sum(map(len, params)) == len(trackers.flat(config))
    assert any(some.get("stages.0.seq_len") == "64" for some in params)
    assert not any(letter in name for some in params for name in some for letter in "[]")
    assert [call["step"] for call in mlflow.of("log_metrics")] == [1, 2, 3] and len(mlflow.of("end_run")) == 2
    assert mlflow.of("log_metrics")[0]["metrics"] == {"train/loss": 1.0, "train/loss.text": 0.5, "train/seq_len": 64}


@pytest.mark.parametrize("failing", ["log", "finish"])
def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on(wandb, mlflow, tmp_path, failing):
    wandb.failing = {failing}
    notes = log(tmp_path, using("wandb", "mlflow"), (1, 2, 3))
    assert notes == ["wandb: the server is gone; it gets no more numbers, and training goes on"]
    assert [call["step"] for call in mlflow.of("log_metrics")] == [1, 2, 3]
    assert [record["step"] for record in read(tmp_path)] == [0, 1, 2, 3]


def test_one_that_cannot_begin_stops_a_new_run_but_none_that_goes_on(wandb, tmp_path):
    wandb.failing = {"init"}
    with pytest.raises(UserError, match=r"log.trackers=\('wandb',\): wandb cannot begin: the server is gone$"):
        log(tmp_path, using("wandb"), ())
    assert log(tmp_path, using("wandb"), (3,), resume_step=2) == [
        "wandb: the server is gone; it gets no more numbers, and training goes on"
    ]
    assert read(tmp_path)[-1]["step"] == 3


def test_what_is_not_there_is_one_line(wandb, monkeypatch):
    with pytest.raises(UserError, match=r"log.trackers\[1\]='wandbb'.*mlflow, tensorboard, wandb"):
        trackers.check(using("tensorboard", "wandbb"))
    trackers.check(using("wandb"))
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"log.trackers\[0\]='wandb': wandb is not installed: pip install wandb"):
        trackers.check(using("wandb"))
    trackers.check(using())
