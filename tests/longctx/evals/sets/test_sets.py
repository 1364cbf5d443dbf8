"""Published sets in tiny folders of their form: each is recognised, no other is; golds score 1, others what they do."""

import json
import sys

import numpy as np
import pytest

from longctx.errors import UserError
from longctx.evals.questions.question import Query
from longctx.evals.sets import folder, overlap
from longctx.evals.sets.api import SETS, recognised
from longctx.evals.sets.published import Texts
from tests.longctx.evals.sets.tiny_sets import FORMS, lines

EACH = pytest.mark.parametrize("form", FORMS)
BEYOND = (
    "",
    "\n",
    "0",
    "(" * 50,
    "9" * 5000,
    "1e400 -- \\d+ [",
    "é中",
    "{" * 50,
    "<Route>",
    '{"little_penguin": 1}',
    "-",
)


@pytest.fixture
def found(form, tmp_path):
    FORMS[form].write(tmp_path)
    return recognised(str(tmp_path))


def test_every_set_has_a_tiny_form():
    assert {form.split(" of ")[0] for form in FORMS} == set(SETS)
    assert all(each.title and each.source and each.looks_for for each in SETS.values())


@EACH
def test_a_set_is_recognised_and_no_other(form, found):
    assert found.name == form.split(" of ")[0]
    assert sorted(task.name for task in found.tasks) == sorted(FORMS[form].answers)


@EACH
def test_answers_score_what_they_should(form, found):
    for task in found.tasks:
        for query, answers in zip(queries(task), FORMS[form].answers[task.name], strict=False):
            scored = {answer: task.score(answer, query) for answer in answers}
            assert scored == pytest.approx(answers), task.name
            assert max(answers.values()) == 1.0
            if "Data hotpotqa" not in task.name:
                assert next(iter(answers.values())) == 1.0


@EACH
def test_golds_are_right_and_no_answer_is_beyond_scoring(form, found):
    for task in found.tasks:
        for query in queries(task):
            assert task.score(f" {query.gold[0] if task.whole(query) else ', '.join(query.gold)}", query) == 1.0
            for answer in BEYOND:
                assert 0 <= task.score(answer, query) <= 1
            assert 0 <= task.chance(query) < 1 and len(set(query.candidates)) == len(query.candidates)
            if query.candidates and task.whole(query):
                worth = [task.score(f" {candidate}", query) for candidate in query.candidates]
                assert worth[0] == 1.0 and task.chance(query) == pytest.approx(np.mean(worth))


def queries(task) -> list[Query]:
    samples = [task.sample(i) for i in range(len(task.rows))] if isinstance(task, Texts) else []
    samples = samples or [task.sample(np.random.default_rng(i), 8) for i in range(10)]
    return [query for sample in samples for query in sample.queries]


def prompt(tmp_path, form: str, task: str, query: int = 0) -> str:
    FORMS[form].write(tmp_path)
    sample = next(one for one in recognised(str(tmp_path)).tasks if one.name == task).sample(0)
    return sample.prompt(sample.queries[query])


def test_prompts_of_the_folder_are_taken(tmp_path):
    assert prompt(tmp_path, "longbench", "hotpotqa") == "Read.\nA text.\nSo: Who? {x}\nAnswer:"


@pytest.mark.parametrize(
    "task, parts",
    [
        ("path_traversal_0.5k", ["[TASK]\n\n  Go.\nFrom A one goes to B.\nFrom A to B."]),
        ("countdown_2k", ["Target: 46\n\n{shown}\n\n# Example", "shown too\nNumbers: [21, 16, 17, 26]\nTarget: 46"]),
        ("tom_tracking_8k", ["Like {this}.\nAnn.\nWhere?"]),
        ("html_to_tsv_0.5k", ["<p>{braces}</p>\nGet x xx\na\tb"]),
    ],
)
def test_prompts_of_longproc_are_filled_in(tmp_path, task, parts):
    text = prompt(tmp_path, "longproc", task)
    assert all(part in text for part in parts) and "asked" not in text


@pytest.mark.parametrize(
    "form, task, parts",
    [
        ("longbench_v2", "short", ["A text.", "Which?\n(A) choice A\n(B) choice B", "The correct answer is"]),
        ("infinitebench", "math_find", ["Find it.\n\nA text.\n\nWhat is the largest?"]),
        ("infinitebench", "code_debug", ["A. alpha\nB. beta\nC. gamma\nD. delta"]),
        (
            "helmet",
            "json_kv k105",
            ['{"a": "b1-c2"}', "Key: k2\nCorresponding value: v2\n\nKey: a\nCorresponding value:"],
        ),
        ("ruler", "4096/niah_multivalue", ["A text. What? They are"]),
        ("mrcr", "2 needles", ["User: poem one\nAssistant: word", "\nUser: Prepend ABCDE12345: 2nd\nAssistant:"]),
        ("lciteeval", "Data hotpotqa", ["Passage [1]: Fox\nIt is red.", "What?"]),
        ("oolong", "numeric test", ["Records.\nWhat?"]),
        ("graphwalks", "bfs", ["Here is a graph.\na1 -> b2", "Find the parents of node b2.\n"]),
    ],
)
def test_prompts_hold_what_is_asked(tmp_path, form, task, parts):
    text = prompt(tmp_path, form, task)
    assert all(part in text for part in parts) and not text.endswith(" ")


def test_a_fact_of_nolima_is_in_its_text_and_grows_nothing_but_the_text(tmp_path):
    FORMS["nolima"].write(tmp_path)
    task = next(one for one in recognised(str(tmp_path)).tasks if one.name == "needle_set onehop")
    names = set()
    for seed in range(20):
        small, large = (task.sample(np.random.default_rng(seed), size) for size in (5, 25))
        (query,) = small.queries
        assert small.queries == large.queries and "Helsinki" in query.question and len(query.candidates) == 3
        for sample, size in ((small, 5), (large, 25)):
            assert f"{query.gold[0]} lives next to the Kiasma." in sample.context
            assert "Somebody saw Helsinki in a film." in sample.context
            assert sample.context.count("A line of a book.") == size
        names.update(query.gold)
        assert task.score(f" It is {query.gold[0]}.", query) == 1 and task.score(query.gold[0].lower(), query) == 0
    assert names == {"Yuki", "Stuart", "Katie"}


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        recognised(str(tmp_path / "nothing"))
    (tmp_path / ".git").mkdir()
    lines(tmp_path / ".git" / "passkey.jsonl", {"context": "", "input": "", "answer": "", "options": ""})
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "hotpotqa.jsonl").write_text("no JSON\n")
    with pytest.raises(
        UserError,
        match="no set that is known, among 2 files. Sought: hotpotqa.jsonl with.*passkey.jsonl.*needle_set.json",
    ):
        recognised(str(tmp_path))


def test_a_folder_of_two_sets(tmp_path):
    for form in ("graphwalks", "ada_leval"):
        (tmp_path / form).mkdir()
        FORMS[form].write(tmp_path / form)
    with pytest.raises(UserError, match="holds files of Graphwalks and Ada-LEval"):
        recognised(str(tmp_path))


@pytest.mark.parametrize(
    "row, said",
    [
        ({"choice_A": "x"}, "record 1 of short is not of the form of its set .KeyError: 'answer'"),
        ({"answer": None}, "record 1 of short"),
        ({"answer": "E"}, "ValueError: answer='E' is no letter"),
    ],
)
def test_a_record_of_another_form_is_named(tmp_path, row, said):
    FORMS["longbench_v2"].write(tmp_path)
    first = json.loads((tmp_path / "data.json").read_text())[0]
    second = {"length": "short", "context": "x"} | row if "choice_A" in row else first | row
    (tmp_path / "data.json").write_text(json.dumps([first, second]))
    (task,) = recognised(str(tmp_path)).tasks
    with pytest.raises(UserError, match=said):
        task.sample(1)


def test_pyarrow_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    FORMS["graphwalks"].write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow, which is not installed: pip install 'longctx\[data\]'"):
        recognised(str(tmp_path))


def test_records_of_all_kinds_of_files(tmp_path):
    rows = [{"a": i, "b": "é" * i} for i in range(5)]
    lines(tmp_path / "x.jsonl", *rows)
    lines(tmp_path / "y.json", *rows)
    (tmp_path / "z.json").write_text(json.dumps({"data": rows}))
    (tmp_path / "one.json").write_text(json.dumps(rows[0], indent=2))
    (tmp_path / "t.tsv").write_text("a\tb\n" + "".join(f"{row['a']}\t{row['b']}\n" for row in rows))
    for name in ("x.jsonl", "y.json", "z.json"):
        found = folder.rows_of(tmp_path / name)
        assert [found[i] for i in range(len(found))] == rows and folder.columns(found) == {"a", "b"}
    assert folder.rows_of(tmp_path / "one.json")[0] == rows[0]
    assert [row["b"] for row in folder.rows_of(tmp_path / "t.tsv")] == [row["b"] for row in rows]
    two = folder.Joined([folder.rows_of(tmp_path / "x.jsonl"), rows])
    assert len(two) == 10 and two[7] == rows[2] and folder.column(two, "a") == [0, 1, 2, 3, 4] * 2
    assert [len(part) for part in folder.by_value(two, "a").values()] == [2] * 5
    with pytest.raises(IndexError):
        two[10]


def test_records_of_parquet_are_read_by_groups_of_rows(tmp_path):
    from pyarrow import Table, parquet

    rows = [{"a": i, "b": [str(i)]} for i in range(7)]
    parquet.write_table(Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=3)
    found = folder.rows_of(tmp_path / "x.parquet")
    assert [found[i] for i in (6, 0, 3, 2, 5, 1, 4)] == [rows[i] for i in (6, 0, 3, 2, 5, 1, 4)]
    assert folder.column(found, "a") == list(range(7))
    with pytest.raises(IndexError):
        found[7]


def longest_common(one: str, other: str) -> int:
    """By the table that defines it."""
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, x in enumerate(one):
        for j, y in enumerate(other):
            rows[i + 1][j + 1] = rows[i][j] + 1 if x == y else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def test_the_longest_common_subsequence():
    rng = np.random.default_rng(0)
    for _ in range(200):
        one, other = ("".join(rng.choice(list("abcd"), rng.integers(0, 70))) for _ in range(2))
        assert overlap.in_common(one, other) == longest_common(one, other)


@pytest.mark.parametrize(
    "answer, letter",
    [
        ("The correct answer is (C)", "C"),
        ("**B**", "B"),
        (" D. Because A is wrong", "D"),
        ("I think it is (A).", "A"),
        ("Answer: B", "B"),
        ("Both", ""),
        ("", ""),
    ],
)
def test_the_letter_of_a_choice(answer, letter):
    assert overlap.letter(answer) == letter
