"""experiments.evaluate of a set that was downloaded: what is printed and kept, and a folder that is none."""

import json

from experiments import evaluate, report
from tests.experiments.settings.test_bad_input import has, problem
from tests.experiments.test_evaluate import command
from tests.longctx.evals.sets.tiny_sets import lines


def test_a_set_is_asked_by_the_command(tmp_path, folder, text, capsys):
    row = lambda size: dict(index=0, input="a " * size, outputs=["no"], length=1, answer_prefix=" so")
    lines(tmp_path / "set" / "vt" / "validation.jsonl", row(3), row(900))
    more = ["eval.tasks=('sets',)", f"eval.data={tmp_path / 'set'}", "eval.too_long=middle", "eval.lengths=(128,)"]
    evaluate.main([*command(folder, text, *more), f"--workdir={tmp_path / 'found'}"])
    printed = capsys.readouterr().out
    assert "RULER: Of the questions of 1 tasks are answered: " in printed
    assert "Of 2 texts are longer than 128 tokens: 1 cut, 0 skipped." in printed and "ruler " in printed
    (task,) = json.loads((tmp_path / "found" / "evals.json").read_text())["sets"]["tasks"]
    assert (task["name"], task["texts"], task["cells"][0]["asked"]) == ("vt", 2, 2)
    _, *kept = map(json.loads, (tmp_path / "found" / "samples_sets.jsonl").read_text().splitlines())
    assert [(line["task"], line["length"], line["index"], len(line["queries"])) for line in kept] == [
        ("vt", 128, 0, 1),
        ("vt", 128, 1, 1),
    ]
    evaluate.main([*command(folder, text, *more), f"--workdir={tmp_path / 'found'}"])
    assert "2 texts of" in capsys.readouterr().out and len(kept) == 2
    assert "Questions of a published set" in report.write(tmp_path / "found").read_text()


def test_a_folder_without_a_set_is_refused_before_anything_is_loaded(tmp_path, folder, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    said = problem(evaluate.main, command(folder, text, "eval.tasks=('sets',)", "eval.data=set"))
    has(said, "eval.data='set' holds no set that is known", ".parquet with answer_nodes")
    has(problem(evaluate.main, command(folder, text, "eval.data=set")), "do not go together")
