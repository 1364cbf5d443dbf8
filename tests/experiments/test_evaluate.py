"""experiments.evaluate of a model that was trained elsewhere: no run, the settings of the command line, a report."""

import json

import pytest

from experiments import evaluate, report
from experiments.run import processes
from longctx.evals import asking, key_tokens
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


def test_losses_of_one_text_agree_and_an_evaluator_is_read(tmp_path, folder, text, monkeypatch):
    """Every token behind the short context is made key: then what three tasks measure is one thing."""
    monkeypatch.setenv("LONGCTX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(key_tokens, "GAIN", -1e9)
    monkeypatch.setattr(key_tokens, "MOST", 1e9)
    settings = [
        "eval.tasks=('sliding_window','longppl')",
        "eval.lengths=(64,)",
        "eval.document_tokens=64",
        "eval.key_context=8",
        "eval.key_stride=24",
        f"eval.evaluator={folder}",
    ]
    evaluate.main([*command(folder, text, *settings), f"--workdir={tmp_path / 'found'}"])
    found = json.loads((tmp_path / "found" / "evals.json").read_text())
    (window,), (key,) = found["sliding_window"]["lengths"], found["longppl"]["lengths"]
    assert window["tokens"] == key["tokens"] == 3 * 64 and key["key_tokens"] == 3 * (64 - 8 + 1)
    assert key["all_loss"] == pytest.approx(window["loss"], rel=1e-4)
    assert found["longppl"]["evaluator"] == "elsewhere"
    assert len(list((tmp_path / "cache" / "longppl").glob("*.json"))) == 3
    page = (tmp_path / "found" / "report.html").read_text()
    assert "sliding windows, W = 64, S = 32" in page and "key tokens by elsewhere, K = 8, S = 24" in page


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
        (["eval.tasks=('longppl',)", "eval.evaluator=none"], ["eval.evaluator='none' does not exist"]),
        (
            ["eval.tasks=('sliding_window',)", "eval.lengths=(16,)", "eval.stride=32"],
            ["eval.stride=32 leaves out tokens between windows of 16"],
        ),
        (["eval.key_stride=0"], ["eval.key_stride=0 must be at least 1"]),
        (["data.tokenizer=bytes"], ["smaller than the 259 tokens"]),
    ],
)
def test_what_it_refuses(tmp_path, folder, text, monkeypatch, more, parts):
    monkeypatch.chdir(tmp_path)
    has(problem(evaluate.main, command(folder, text, *more)), *parts)
    assert not list(tmp_path.glob("runs/*"))


def asked(folder, workdir, *more) -> list[str]:
    settings = [f"--config.{setting}" for setting in ("data.holdout=0.5", *more)]
    return [
        "evaluate",
        f"--config.init_from={folder}",
        "--suite=repeated_words,mqar",
        *settings,
        f"--workdir={workdir}",
    ]


@pytest.mark.slow
def test_a_suite_goes_on_sample_by_sample(tmp_path, folder, text, capsys, monkeypatch):
    """What was asked is not asked again, unless it would be asked otherwise; workdirs are compared."""
    monkeypatch.chdir(tmp_path)
    data, lengths = f"data.path={text}", ("--lengths", "512,768")
    evaluate.main([*asked(folder, "one", data, "eval.samples=1"), *lengths])
    said = capsys.readouterr().out
    assert "  mqar at 768: 0 of 8\n" in said and "768 tokens are more than the 64 that the model is made for" in said
    of = lambda workdir: [json.loads(line) for line in (tmp_path / workdir / "samples.jsonl").read_text().splitlines()]
    first, *lines = of("one")
    assert first["settings"]["ask"] == "forced" and [line["length"] for line in lines] == [512, 768] * 2
    assert len(lines[2]["queries"]) == 8 and {"prompt", "gold", "answer", "score", "chance"} <= set(
        lines[2]["queries"][0]
    )
    whole = json.loads((tmp_path / "one/evals.json").read_text())

    monkeypatch.setitem(asking.WAYS, "forced", None)
    evaluate.main([*asked(folder, "one", data, "eval.samples=1"), *lengths])
    assert "4 texts of one/samples.jsonl were asked before, and count" in capsys.readouterr().out
    assert json.loads((tmp_path / "one/evals.json").read_text()) == whole
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    evaluate.main([*asked(folder, "one", data, "eval.samples=2"), "--lengths=512"])
    assert [(line["task"], line["length"], line["index"]) for line in of("one")[5:]] == [
        ("repeated_words", 512, 1),
        ("mqar", 512, 1),
    ]
    evaluate.main([*asked(folder, "one", data, "eval.samples=1", "eval.ask=choice"), "--lengths=512"])
    assert "one/samples.jsonl is begun anew: settings.ask" in capsys.readouterr().out and len(of("one")) == 3

    evaluate.main([*asked(folder, "two", data, "eval.samples=1", "model.position=nope"), *lengths])
    evaluate.main(["evaluate", "--compare", "one", "two", "--out=both.png"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "both.png" and (tmp_path / "both.png").stat().st_size > 10_000
    assert [line.split()[0] for line in said[-3:-1]] == ["one", "two"] and said[-3].endswith("-")


def test_a_run_keeps_its_workdir(tmp_path, folder, text, monkeypatch):
    of_run = {"init_from": "", "data": {"tokenizer": "bytes"}}
    monkeypatch.setattr(evaluate.configs, "stored", lambda workdir: of_run if workdir == tmp_path else None)
    argv = [*command(folder, text), f"--workdir={tmp_path}"]
    has(problem(evaluate.main, argv), f"--workdir={tmp_path}", "training run")
    assert not [*tmp_path.glob("*.json")]


@pytest.mark.parametrize(
    "more, parts",
    [
        (["--suite=rular"], ["--suite[0]='rular'", "Did you mean 'ruler'"]),
        (["--lengths=4k"], ["--lengths=4k", "4096,8192"]),
        (["--compare", "nowhere"], ["nowhere", "holds no"]),
    ],
)
def test_short_options_that_it_refuses(tmp_path, folder, monkeypatch, more, parts):
    monkeypatch.chdir(tmp_path)
    has(
        problem(evaluate.main, ["evaluate", *([] if "--compare" in more else [f"--config.init_from={folder}"]), *more]),
        *parts,
    )
