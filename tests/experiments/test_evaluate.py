"""experiments.evaluate of a model that was trained elsewhere: no run, the settings of the command line, a report."""

import json

import pytest

from experiments import evaluate, report
from experiments.run import processes
from tests.experiments.settings.test_bad_input import has, problem


def command(folder, text, *more) -> list[str]:
    said = ["data.holdout=0.5", "eval.tasks=('by_position',)", "eval.documents=3", f"data.path={text}", *more]
    return ["evaluate", f"--config.init_from={folder}", *(f"--config.{setting}" for setting in said)]


def test_a_model_is_measured_where_it_was_made_for(tmp_path, folder, text, capsys):
    workdir = tmp_path / "found"
    evaluate.main([*command(folder, text, "eval.lengths=(16,64)"), f"--workdir={workdir}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "elsewhere: as it is, at 16, 64 tokens" and lines[-1].endswith(
        f"report: {workdir / 'report.html'}"
    )
    assert "evaluated by_position in" in lines[-2] and "nats around position" in lines[-2]
    found = json.loads((workdir / "evals.json").read_text())["by_position"]["lengths"]
    assert [record["length"] for record in found] == [16, 64]
    page = report.write(workdir).read_text()
    assert "<h1>elsewhere</h1>" in page and "that the model is made for" in page and "Training loss" not in page
    again = [*command(folder, text, "eval.lengths=(16,64)", "model.position=nope"), f"--workdir={workdir}"]
    with processes.hold(workdir):
        has(problem(evaluate.main, again), f"--workdir={str(workdir)!r} is in use by process", "another --workdir")
    evaluate.main(again)
    other = json.loads((workdir / "evals.json").read_text())["by_position"]["lengths"]
    assert [record["loss"] for record in other] != [record["loss"] for record in found]


def test_lengths_are_those_that_it_is_made_for(tmp_path, folder, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "LENGTHS", (32, 64, 128))
    evaluate.main(command(folder, text))
    found = json.loads((tmp_path / "runs/evaluate-elsewhere/evals.json").read_text())["by_position"]["lengths"]
    assert [record["length"] for record in found] == [32, 64]


@pytest.mark.parametrize(
    "more, parts",
    [
        (["model.layers=7"], ["model.layers=7", "cannot be changed"]),
        (["optim.learning_rate=1"], ["--config.optim.learning_rate=1 has no effect on a Hugging Face model"]),
        (["eval.tasks=('passkeys',)"], ["passkeys", "Did you mean 'passkey'"]),
        (["data.tokenizer=bytes"], ["smaller than the 259 tokens"]),
    ],
)
def test_what_it_refuses(tmp_path, folder, text, monkeypatch, more, parts):
    monkeypatch.chdir(tmp_path)
    has(problem(evaluate.main, command(folder, text, *more)), *parts)
    assert not list(tmp_path.glob("runs/*"))
