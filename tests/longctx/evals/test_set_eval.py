"""Sets as an evaluation: models that are always right and never, and texts that are longer than a length."""

import json

import numpy as np
import pytest

from longctx.config import EvalConfig
from longctx.data import tokenizers
from longctx.errors import UserError
from longctx.evals import api, asking
from longctx.evals.batches import Prediction
from longctx.evals.questions.question import Query, Sample
from longctx.evals.samples import Samples
from longctx.evals.sets import lengths
from longctx.evals.tasks import sets
from tests.longctx.data import tiny_tokenizers as tiny
from tests.longctx.evals.sets.tiny_sets import FORMS, lines


def config(folder, **more) -> EvalConfig:
    return EvalConfig(tasks=("sets",), data=str(folder), **more)


class Knowing:
    """A model whose top choice is right, or never; it writes " (B)"."""

    def __init__(self, right=True, tokenizer=None):
        self.right, self.tokenizer = right, tokenizer

    def __call__(self, batch):
        top = (batch["weights"] > 0) & self.right
        return Prediction(np.where(batch["weights"] > 0, np.where(batch["targets"] == ord("B"), 0.1, 1.0), np.nan), top)

    def generate(self, prompts, count, length, stop):
        assert all(len(prompt) + count <= length for prompt in prompts)
        return [np.append(self.tokenizer.encode(b" (B)"), self.tokenizer.eos) for _ in prompts]


@pytest.fixture
def choices(tmp_path):
    FORMS["longbench_v2"].write(tmp_path)
    return tmp_path


def test_what_was_asked_is_not_asked_again_and_counts_the_same(choices, byte_tokenizer):
    kept, said, never = [], [], []
    how = [], byte_tokenizer, config(choices), (300, 512), 0
    first = sets.run(Knowing(), *how, samples=Samples(write=kept.extend), say=said.append)
    assert len(said) == 2 * len(first["tasks"]) and "1 of 1" in said[0]
    assert {(line["length"], line["index"]) for line in kept} == {(300, 0), (512, 0)}
    assert all(len(query["prompt"]) == 16 and query["score"] == 1 for line in kept for query in line["queries"])
    again = sets.run(lambda batch: never.append(batch), *how, samples=Samples(json.loads(json.dumps(kept))))
    assert again == first and not never


@pytest.mark.parametrize("way, right", [("forced", True), ("forced", False), ("choice", True), ("generate", True)])
def test_a_set_is_asked_in_all_ways(choices, byte_tokenizer, way, right):
    result = sets.run(Knowing(right, byte_tokenizer), [], byte_tokenizer, config(choices, ask=way), (300, 512), 0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result and sets.is_result(result)
    assert (result["set"], result["way"], result["too_long"]) == ("longbench_v2", way, "refuse")
    for task in result["tasks"]:
        for cell in task["cells"]:
            assert (cell["asked"], cell["right"], cell["chance"], cell["texts"]) == (1, float(right), 0.25, 1)
    share = "100%" if right else "0%"
    assert sets.finding(result, 300) == (
        f"LongBench v2: Of the questions of 2 tasks are answered: {share} at 300, {share} at 512 "
        f"(choosing at random: 25%). {2 * right} of them hold out to 512, at half of what they score above chance or "
        "more."
    )
    assert sets.headline(result, 300) == f"longbench_v2 {share} at 300 tokens"
    assert sets.TASK.figure(result, [], 300).axes[0].get_title("right") == "beyond training →"


def test_what_cannot_be_asked_so(tmp_path, byte_tokenizer):
    FORMS["graphwalks"].write(tmp_path)
    result = sets.run(Knowing(), [], byte_tokenizer, config(tmp_path), (4096,), 0)
    assert [task["cells"][0]["reason"] for task in result["tasks"]] == [asking.NONE["forced"]] * 2
    assert sets.TASK.figure(result, [], 1) is None and sets.headline(result, 1) == ""
    assert "Not asked at 4,096 tokens: bfs: its questions have several answers" in sets.finding(result, 1)


@pytest.fixture
def long_texts(tmp_path):
    """Texts of 100, 1,000 and 3,000 bytes about which a short question is asked."""
    row = lambda size: dict(index=size, input="x" * size + "?", outputs=["Yes"], length=size, answer_prefix=" It is")
    lines(tmp_path / "qa_1" / "validation.jsonl", *map(row, (100, 1000, 3000)))
    return tmp_path


@pytest.mark.parametrize(
    "too_long, at_1200, at_200",
    [
        ("refuse", "1 of 3 texts are longer than 1,200", "2 of 3 texts are longer than 200"),
        ("middle", (3, 1, 0, 3), (3, 2, 0, 3)),
        ("skip", (3, 0, 1, 2), (3, 0, 2, 1)),
    ],
)
def test_what_becomes_of_longer_texts(long_texts, byte_tokenizer, too_long, at_1200, at_200):
    found = sets.run(Knowing(), [], byte_tokenizer, config(long_texts, too_long=too_long), (200, 1200, 4096), 0)
    assert sets.is_result(found)
    small, middle, large = found["tasks"][0]["cells"]
    assert [large[key] for key in ("texts", "cut", "skipped", "asked")] == [3, 0, 0, 3]
    needed = 1 + len("x" * 3000 + "? It is") + 32
    for cell, expected in ((middle, at_1200), (small, at_200)):
        if too_long == "refuse":
            assert expected in cell["reason"] and f"{needed:,} would fit" in cell["reason"] and cell["texts"] == 3
        else:
            assert tuple(cell[key] for key in ("texts", "cut", "skipped", "asked")) == expected
            assert cell["right"] == cell["asked"]
    said = sets.finding(found, 4096)
    if too_long == "refuse":
        assert "Not asked at 200 tokens: qa_1: 2 of 3" in said
    else:
        cut, left = (2, 0) if too_long == "middle" else (0, 2)
        assert (
            f"Of 3 texts are longer than 200 tokens: {cut} cut, {left} skipped." in said and "4,096 tokens:" not in said
        )


def test_nothing_is_left_of_a_set_whose_texts_are_all_longer(long_texts, byte_tokenizer):
    found = sets.run(Knowing(), [], byte_tokenizer, config(long_texts, too_long="skip"), (64,), 0)
    assert found["tasks"][0]["cells"][0] == {
        "reason": "all of its texts are longer",
        "texts": 3,
        "cut": 0,
        "skipped": 3,
    }
    found = sets.run(Knowing(), [], byte_tokenizer, config(long_texts, too_long="middle"), (32,), 0)
    assert "a question and its answer alone take 39 tokens of 32" in found["tasks"][0]["cells"][0]["reason"]


@pytest.mark.parametrize("make", [None, tiny.metaspace, tiny.byte_fallback, lambda: tiny.byte_level("<s>", "</s>")])
def test_a_cut_text_fits_and_keeps_its_ends_and_its_question(tmp_path, byte_tokenizer, make):
    tokenizer = byte_tokenizer if make is None else tokenizers.load(tiny.write(tmp_path, make()))
    context = "Read this. " + "the é red 中 fox and more. " * 300 + "The end."
    sample = Sample(context, (Query("\nWho?", " It is", ("a fox",)), Query("\nWhat is it, then?", "", ("a fox",))))
    again = lambda one: lengths.measured(one, tokenizer, 8, lambda query: query.gold)
    whole = again(sample)
    for length in (whole.needed - 1, whole.needed // 2, 100):
        found = lengths.cut_in_the_middle([whole], length, again)
        (cut,) = found.texts.values()
        assert found.cut == 1 and cut == again(cut.sample) and cut.sample.queries == sample.queries
        assert length - 40 <= cut.needed <= length
        assert cut.sample.context.startswith("Read this. the") and cut.sample.context.endswith("The end.")
    assert lengths.cut_in_the_middle([whole], whole.needed, again) == lengths.Fitted({0: whole})


def test_room_is_kept_for_what_is_read(byte_tokenizer):
    """An answer longer than its budget that is forced, and the longest of the candidates."""
    sample = Sample("A text.", (Query("", "", ("x" * 50,), ("x" * 50, "y" * 70)),))
    for answers, needed in (((), 18), (sample.queries[0].gold, 59), (sample.queries[0].candidates, 79)):
        found = lengths.measured(sample, byte_tokenizer, 10, lambda query, answers=answers: answers)
        assert found == lengths.Measured(sample, 8, needed)


def test_texts_are_drawn_by_the_seed(long_texts):
    (task,) = api.recognised(str(long_texts)).tasks
    draw = lambda count, seed: [len(one.context) for one in lengths.drawn(task, count, seed)]
    assert sorted(draw(9, 0)) == [101, 1001, 3001] and draw(2, 0) == draw(3, 0)[:2]
    assert len({tuple(draw(3, seed)) for seed in range(20)}) > 2


def test_books_are_as_long_as_is_asked_for(tmp_path, byte_tokenizer):
    FORMS["nolima"].write(tmp_path)
    found = sets.run(Knowing(), [], byte_tokenizer, config(tmp_path, samples=2, ask="choice"), (64, 700), 0)
    for task in found["tasks"]:
        short, long = task["cells"]
        assert "64 tokens are too few for needle_set" in short["reason"]
        assert (
            long["asked"] == 2
            and 450 < long["tokens"] <= 700 - 192
            and long["chance"] == pytest.approx(1 / 3, abs=1e-4)
        )


@pytest.mark.parametrize(
    "more, said",
    [
        ({"data": ""}, "eval.data='' and .*do not go together"),
        ({"tasks": ("passkey",)}, "do not go together"),
        ({"too_long": "midle"}, "eval.too_long='midle' is not known. Did you mean 'middle'"),
        ({"data": "/nowhere"}, "is no folder"),
    ],
)
def test_settings_that_do_not_go_together(choices, more, said):
    api.check(config(choices))
    with pytest.raises(UserError, match=said):
        api.check(EvalConfig(**{"tasks": ("sets",), "data": str(choices)} | more))
