"""Questions by teacher forcing, of models that are always right, never, and of a few digits."""

import json

import numpy as np
import pytest

from longctx.config import EvalConfig
from longctx.data import tokenizers
from longctx.errors import UserError
from longctx.evals import api, asking, batches
from longctx.evals.batches import Prediction
from longctx.evals.questions import fit
from longctx.evals.questions.api import QUESTIONS, SUITES, named
from longctx.evals.tasks import questions
from tests.longctx.data import tiny_tokenizers as tiny

CONFIG = EvalConfig(questions=("niah_single_1", "niah_multikey_1", "niah_multivalue"), samples=3)


def model(right):
    """A model whose top choice is right where right(targets) says."""
    return lambda batch: Prediction(np.where(batch["weights"] > 0, 1.0, np.nan), right(batch["targets"]))


always, never = (model(lambda targets, value=value: np.full(targets.shape, value)) for value in (True, False))


def test_right_answers_are_counted(byte_tokenizer):
    result = questions.run(always, [], byte_tokenizer, CONFIG, (256, 2048, 4096), 0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result and questions.is_result(result)
    single, several, values = result["tasks"]
    assert "too few for niah_single_1" in single["cells"][0]["reason"] and "asked" not in values["cells"][2]
    assert values["cells"][2]["reason"] == asking.NONE["forced"]
    for cell in single["cells"][1:] + several["cells"][1:]:
        assert (cell["asked"], cell["right"], cell["chance"], cell["high"]) == (3, 3, 0.125, 1.0) and cell["low"] > 0.4
    assert 3700 < single["cells"][2]["tokens"] <= 4096 - QUESTIONS["niah_single_1"].budget
    assert questions.finding(result, 2048) == (
        "Of the questions of 2 tasks are answered: 100% at 2,048, 100% at 4,096 (choosing at random: 12%); "
        "1 more cannot be asked so. 2 of them hold out to 4,096, at half of what they score above chance or more."
    )
    assert questions.headline(result, 2048) == "questions 100% at 2,048 tokens"
    assert questions.effective_length(single["cells"], result["lengths"]) == 4096
    assert questions.figure(result, [], 2048).axes[0].get_title("right") == "beyond training →"


def test_wrong_ones_too_and_an_answer_is_right_as_a_whole(byte_tokenizer):
    result = questions.run(never, [], byte_tokenizer, CONFIG, (2048,), 0)
    assert [task["cells"][0].get("right") for task in result["tasks"]] == [0, 0, None]
    assert questions.effective_length(result["tasks"][0]["cells"], [2048]) == 0
    even = questions.run(model(lambda targets: targets % 2 == 0), [], byte_tokenizer, CONFIG, (2048,), 0)
    assert even["tasks"][0]["cells"][0]["right"] == 0  # seven digits are hardly all even
    config = EvalConfig(questions=("niah_multivalue",))
    nothing = questions.run(never, [], byte_tokenizer, config, (2048,), 0)
    assert questions.figure(nothing, [], 1) is None and questions.headline(nothing, 1) == ""
    assert questions.finding(nothing, 1) == "No task fits the lengths that were measured."


@pytest.mark.parametrize("make", [None, tiny.metaspace, tiny.byte_fallback, lambda: tiny.byte_level("<s>", "</s>")])
def test_what_is_scored_is_the_answer(tmp_path, byte_tokenizer, make):
    """Prompt and answer become tokens together; one that holds the space and a digit counts."""
    tokenizer = byte_tokenizer if make is None else tokenizers.load(tiny.write(tmp_path, make()))
    for index in range(20):
        sample = fit.drawn(QUESTIONS["niah_single_2"], "niah_single_2", 0, index, 7)
        (query,) = sample.queries
        piece = asking.answered(tokenizer, sample, query, query.gold[0])
        text = f"{sample.prompt(query)} {query.gold[0]}"
        assert piece.targets.tolist() == tokenizer.encode(text.encode()).tolist()
        assert tokenizer.decode(piece.targets[piece.asked]).strip() == query.gold[0]
        weights = batches.batch([[piece]], len(piece.inputs) + 5, tokenizer.pad)["weights"]
        assert weights.sum() == len(piece.asked) > 0


def test_names(byte_tokenizer):
    assert named(("quick", SUITES["quick"][1])) == list(SUITES["quick"]) and set(named(tuple(SUITES))) <= set(QUESTIONS)
    with pytest.raises(UserError, match=r"eval.questions\[1\]='niah_sigle_1' is not known.*niah_single_1"):
        api.check(EvalConfig(questions=("quick", "niah_sigle_1")))
    result = questions.run(always, [], byte_tokenizer, EvalConfig(questions=("quick",), samples=1), (2048,), 3)
    assert not questions.is_result(result | {"tasks": [{"name": "x", "cells": []}]})


class Reader:
    """A model that reads the prompt: it takes the answer of a task's solver for the likeliest, and writes it."""

    def __init__(self, tokenizer, name):
        self.tokenizer, self.task = tokenizer, QUESTIONS[name]

    def __call__(self, batch):
        nll, top = np.full(batch["targets"].shape, np.nan), np.zeros(batch["targets"].shape, bool)
        for row, (targets, weights) in enumerate(zip(batch["targets"], batch["weights"], strict=True)):
            first, last = np.flatnonzero(weights)[[0, -1]]
            prompt = self.tokenizer.decode(targets[:first]).removesuffix(" ")
            answer = self.tokenizer.decode(targets[first : last + 1]).strip()
            top[row] = self.task.solve(prompt) == answer
            nll[row] = np.where(top[row], 0.1, 3.0)
        return Prediction(nll, top & (batch["weights"] > 0))

    def generate(self, prompts, count, length, stop):
        texts = [self.task.solve(self.tokenizer.decode(prompt[1:])) for prompt in prompts]
        assert all(len(prompt) + count <= length for prompt in prompts) and self.tokenizer.eos in stop
        return [np.append(self.tokenizer.encode(f" {text}".encode()), self.tokenizer.eos) for text in texts]


@pytest.mark.parametrize("way", asking.WAYS)
@pytest.mark.parametrize("name", ["niah_multikey_1", "niah_multiquery"])
def test_all_ways_find_what_a_model_that_reads_knows(byte_tokenizer, name, way):
    config = EvalConfig(questions=(name,), ask=way, samples=3)
    result = questions.run(Reader(byte_tokenizer, name), [], byte_tokenizer, config, (2048,), 5)
    (cell,) = result["tasks"][0]["cells"]
    if name == "niah_multiquery" and way in asking.NONE:
        assert cell == {"reason": asking.NONE[way]}
    else:
        assert (cell["asked"], cell["right"]) == (3, 3) and cell["low"] > 0.4


class Talker:
    """A model that answers with the length of what it was given, in letters, and remembers that."""

    def __init__(self, tokenizer):
        self.tokenizer, self.heard = tokenizer, []

    def generate(self, prompts, count, length, stop):
        texts = [self.tokenizer.decode(prompt[1:]) for prompt in prompts]
        assert all(len(prompt) + count <= length for prompt in prompts)
        self.heard.append(texts)
        return [self.tokenizer.encode(f" turn {len(self.heard)}".encode()) for _ in texts]


def test_turns_remember_the_questions_and_answers_before(byte_tokenizer):
    """Two contexts at once; a context leaves room for all turns."""
    task, model = QUESTIONS["mqar"], Talker(byte_tokenizer)
    found = [fit.fitted(task, "mqar", byte_tokenizer, 2048, 0, index, turns=True) for index in range(2)]
    assert all(one.size < fit.fitted(task, "mqar", byte_tokenizer, 2048, 0, 0).size for one in found)
    asked = [(one.sample, query) for one in found for query in one.sample.queries]
    answers = asking.by_turns(model, byte_tokenizer, 2048, task, asked)
    assert [answer.text for answer in answers] == [f" turn {turn}" for _ in found for turn in range(1, 9)]
    sample = found[1].sample
    first, second = (query.question + query.prefix for query in sample.queries[:2])
    assert len(model.heard) == 8 and model.heard[1][1] == f"{sample.context}{first} turn 1{second}"


def test_an_unknown_way():
    with pytest.raises(UserError, match="eval.ask='force' is not known.*forced"):
        api.check(EvalConfig(ask="force"))
