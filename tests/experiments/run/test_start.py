"""What the start of a run checks: settings as the float32 they become, and a workdir whose checkpoints are gone."""

import json

import pytest

from experiments.run import batches, checks
from experiments.settings import config as configs
from tests.experiments.settings.test_bad_input import FILE, has, problem


def start(*overrides, workdir=None):
    argv = ["command", *FILE, *(f"--config.{override}" for override in overrides)]
    return checks.check(configs.from_command_line(argv)[0], workdir)


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["optim.learning_rate=1e300"], ["optim.learning_rate=1e+300", "3.4e38"]),
        (["optim.eps=1e-300"], ["optim.eps=1e-300", "above 0 as a float32", "rounded to 0.0"]),
        (["optim.b1=0.999999999"], ["optim.b1=0.999999999", "below 1 as a float32", "rounded to 1.0"]),
        (
            ["optim.learning_rate=1e38", "stages[1].lr_scale=100"],
            ["optim.learning_rate=1e+38", "stages[1].lr_scale=100.0", "3.4e38"],
        ),
        (["optim.learning_rate=1e38", "optim.final_fraction=10"], ["optim.final_fraction=10.0", "3.4e38"]),
        (["extend.tune_learning_rate=1e39"], ["extend.tune_learning_rate=1e+39"]),
        (["checkpoint.every_minutes=-1"], ["checkpoint.every_minutes=-1.0", "at least 0"]),
    ],
)
def test_settings_are_checked_as_the_float32_that_they_become(overrides, parts):
    has(problem(start, *overrides), *parts)


def test_a_workdir_that_lost_its_checkpoints_is_refused_unless_it_may_start_over(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 40, "stage": 0, "loss": 2.0}) + "\n")
    has(problem(start, workdir=tmp_path), repr(str(tmp_path)), "metrics.jsonl with step 40", "start_over=True")
    assert start("checkpoint.start_over=True", workdir=tmp_path).stages


def test_losses_of_sources_are_told_apart_where_there_are_several():
    settings = lambda *more: configs.from_command_line(["command", *FILE, *(f"--config.{one}" for one in more)])[0]
    assert batches.told_apart(settings("data.generated=('passkey(0.5)',)")) == ("text", "passkey")
    assert batches.told_apart(settings("data.generated=()")) == ()
