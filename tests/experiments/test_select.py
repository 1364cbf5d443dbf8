"""experiments.select on a tiny model of Hugging Face: a line for each document, and going on."""

import json
import math

import pytest

from experiments import select
from longctx.errors import UserError
from tests.helpers import slow

GIVEN = ["--length=60", "--short=12"]


@pytest.mark.parametrize("score", ["context", "awareness", *slow("gap")])
def test_documents_are_scored_once(folder, text, tmp_path, capsys, score):
    out = tmp_path / "scores.jsonl"
    (text / "short.txt").write_text("w1 w2")
    given = [
        "select",
        f"--checkpoint={folder}",
        f"--config.data.path={text}",
        f"--out={out}",
        *GIVEN,
        f"--score={score}",
    ]
    given += [f"--against={folder}"] if score == "gap" else []
    select.main(given)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    said = capsys.readouterr().out
    assert f"{len(lines)} documents, {len(lines)} to be scored" in said
    assert all(line["score"] is None for line in lines if line["name"] == "short.txt")
    numbers = [line["score"] for line in lines if line["name"] != "short.txt"]
    assert len(numbers) > 20 and all(math.isfinite(number) for number in numbers)
    assert set(numbers) == {0.0} if score == "gap" else len(set(numbers)) > 20
    out.write_text("".join(json.dumps(line) + "\n" for line in lines[:-3]))
    select.main(given)
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines
    assert "3 to be scored" in capsys.readouterr().out


def test_what_cannot_be_scored_is_one_line(folder, text, tmp_path):
    given = ["select", f"--checkpoint={folder}", f"--config.data.path={text}", f"--out={tmp_path / 'out.jsonl'}"]
    for more, reason in (
        (["--score=contex"], "--score='contex' is not known. Did you mean 'context'"),
        (["--score=gap"], "--score=gap needs a second model: give --against"),
        ([f"--against={folder}"], "--score=context asks one model: leave out --against"),
        (["--short=4096"], "--short=4096 must be at least 1 and below --length=4096"),
    ):
        with pytest.raises(UserError, match=reason):
            select.main([*given, *more])
