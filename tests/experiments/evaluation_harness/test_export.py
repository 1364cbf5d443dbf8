"""Exported questions: the same prompts, and a file of rules that scores every answer as longctx does."""

import json
import subprocess
import sys

import pytest

from experiments import harness
from experiments.evaluation_harness import export, rules, scored
from longctx.data.tokenizers import ByteTokenizer
from longctx.errors import UserError
from longctx.evals.questions import fit
from longctx.evals.questions.api import QUESTIONS, SUITES
from longctx.evals.questions.keyvalue import JsonPairs
from tests.experiments.settings.test_bad_input import has, problem

ODD = ("", "\n", "0", "None of it.", "(a, b) [c1] 3", "no\tno", "9" * 5000, "8 / 0 = 8", "\u00e9\u4e2d")
RULED = [name for name, task in QUESTIONS.items() if scored.has_rule(task)]


@pytest.mark.parametrize("name", RULED)
def test_rules_score_as_tasks_do(name):
    """Right answers, wrong ones, those to other questions, and odd ones."""
    task = QUESTIONS[name]
    queries = []
    for index in range(4):
        sample = fit.drawn(task, name, 5, index, task.smallest + index)
        queries += [(query, task.solve(sample.prompt(query))) for query in sample.queries]
    answers = [*ODD]
    for query, right in queries:
        answers += [
            right,
            " ".join(query.gold),
            ", ".join(query.gold[:1]),
            *(f" {one}." for one in query.candidates[:4]),
        ]
        answers.append(f"{query.prefix} {', '.join(reversed(query.gold))}")
    worth = set()
    for query, _ in queries[:16]:
        settings = json.loads(json.dumps(scored.settings(task, query)))
        for answer in answers:
            worth.add(task.score(answer, query))
            assert rules.RULES[settings["by"]](answer, settings) == task.score(answer, query), (answer, query)
    assert {0.0, 1.0} <= worth


def test_the_usual_suites_have_rules():
    assert {*SUITES["quick"], *SUITES["ruler"]} <= {*RULED}


def test_a_task_without_a_rule_is_left_out_and_refused_by_its_name(tmp_path, monkeypatch):
    """Here json_kv, of the suite "quick"."""
    monkeypatch.setattr(scored, "FIXED", {kind: rule for kind, rule in scored.FIXED.items() if kind is not JsonPairs})
    made = export.Made(ByteTokenizer(), [3000], 1)
    lines = [*export.write(["quick"], made, tmp_path)]
    assert [line for line in lines if "left out, as it has no rule" in line] == [lines[2]] and "json_kv" in lines[2]
    assert not (tmp_path / "json_kv.yaml").exists() and (tmp_path / "babilong_qa1.yaml").exists()
    has(problem(lambda: [*export.write(["quick", "json_kv"], made, tmp_path)]), "--questions: json_kv has no rule")


def command(folder, *more) -> list[str]:
    said = ["--questions", "quick", "--lengths", "3000,4000", "--samples", "2", "--tokenizer", "bytes"]
    return ["harness", "--export", str(folder), *said, *more]


def test_what_is_exported(tmp_path, capsys):
    folder = tmp_path / "tasks"
    harness.main(command(folder))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "longctx_niah_single_2: 4 questions" and len(said) == len(SUITES["quick"])
    assert {path.name for path in folder.iterdir()} == {
        "utils.py",
        *(f"{name}.{kind}" for name in SUITES["quick"] for kind in ("jsonl", "yaml")),
    }
    for name in SUITES["quick"]:
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert [line["index"] for line in lines] == [*range(len(lines))]
        assert {line["max_length"] for line in lines} == {3000, 4000}
        for line in lines:
            prompt = line["input"] + line["gen_prefix"]
            assert 2000 < len(prompt.encode()) < line["tokens"] + 1 <= line["max_length"] - QUESTIONS[name].budget + 1
            sample = fit.drawn(QUESTIONS[name], name, 0, line["sample"], line["size"])
            assert prompt in [sample.prompt(query) for query in sample.queries]
            settings = json.loads(line["scoring"])
            assert rules.RULES[settings["by"]](QUESTIONS[name].solve(prompt), settings) == 1
        task = (folder / f"{name}.yaml").read_text()
        assert f"task: longctx_{name}\n" in task and f"max_gen_toks: {QUESTIONS[name].budget}\n" in task
        assert f"file: {name}.jsonl\n" in task and '  - metric: "4000"\n' in task


def test_the_file_of_rules_needs_nothing_of_ours(tmp_path):
    (tmp_path / "utils.py").write_text(export.utils())
    doc = {"max_length": 4096, "scoring": json.dumps({"by": "share_of_gold", "gold": ["12", "34"]})}
    script = f"import sys, utils\nprint(utils.process_results({doc!r}, [' 12, 5']))\n"
    script += "print([name for name in sys.modules if name.startswith(('longctx', 'experiments', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env={})
    assert done.stdout.splitlines() == ["{'score': 0.5, '4096': 0.5}", "[]"], done.stderr


@pytest.mark.parametrize(
    "more, parts",
    [
        (["--lengths", "4k"], ["--lengths=4k", "such as 4096,8192"]),
        (["--lengths", "100"], ["100 tokens are too few for niah_single_2"]),
        (["--samples", "0"], ["--samples=0", "at least 1"]),
        (["--tokenizer", "no/such/model"], ["--tokenizer='no/such/model'", "does not exist"]),
        (["--config.model.layers=2"], ["--config.model.layers=2 has no effect on --export"]),
    ],
)
def test_exports_that_are_refused(tmp_path, more, parts):
    has(problem(harness.main, command(tmp_path, *more)), *parts)


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="'qick' is not known. Did you mean 'quick'"):
        harness.main(command(tmp_path, "--questions", "qick"))
