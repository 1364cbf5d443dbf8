"""experiments.harness: what it refuses before lm_eval is imported."""

import pytest

from experiments import harness
from experiments.settings import extras
from tests.experiments.settings.test_bad_input import has, problem

ASK = ["harness", "--tasks", "hellaswag"]


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(extras, "missing", lambda *packages: "")


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["harness", "--out", "a.json"], ["--tasks is missing"]),
        (ASK, ["--out is missing"]),
        (["harness", "--export", "folder", "--questions", "quick"], ["--lengths is missing", "--samples"]),
        ([*ASK, "--out", "a.json", "--samples", "3"], ["--samples is for --export"]),
        ([*ASK, "--out", "a.json", "--length", "1"], ["--length=1", "at least 2"]),
        ([*ASK, "--out", "a.json", "--limit", "0"], ["--limit=0", "at least 1"]),
        ([*ASK, "--out", "a.json"], ["give --workdir DIR of a run, or --config.init_from=MODEL"]),
        ([*ASK, "--out", "a.json", "--workdir", "w", "--config.init_from=m"], ["one of the two"]),
        ([*ASK, "--out", "no/such/a.json"], ["--out=no/such/a.json cannot be written"]),
        ([*ASK, "--out", "a.json", "--include", "none"], ["--include='none' is no folder"]),
        ([*ASK, "--out", "a.json", "--workdir", "none"], ["none"]),
        ([*ASK, "--out", "a.json", "--workdir", "none", "--adapter", "b"], ["--adapter='b' is for a model of"]),
        ([*ASK, "--out", "a.json", "--config.init_from=none"], ["init_from='none' does not exist"]),
    ],
)
def test_what_it_refuses(argv, parts, tmp_path, monkeypatch, installed):
    monkeypatch.chdir(tmp_path)
    has(problem(harness.main, argv), *parts)
    assert not list(tmp_path.iterdir())


def test_several_processes_are_refused(monkeypatch, installed):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    has(problem(harness.main, [*ASK, "--out", "a.json"]), "in one process", "says 2")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    has(problem(harness.main, [*ASK, "--out", "a.json"]), "lm_eval is not installed: pip install -e '.[evals]'")


def test_a_model_without_a_template_has_no_conversations(tmp_path, folder, installed):
    argv = [*ASK, "--out", str(tmp_path / "a.json"), f"--config.init_from={folder}", "--chat"]
    has(problem(harness.main, argv), "has no chat template")
