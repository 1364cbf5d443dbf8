"""A model that is trained to recall answers alike in every way of being asked."""

import dataclasses

import numpy as np
import pytest

from experiments.run import recall as training
from experiments.settings import config as configs
from longctx import meshes
from longctx.data.generated import recall
from longctx.data.tokenizers import ByteTokenizer
from longctx.evals import asking
from longctx.evals.predictor import predictor
from longctx.evals.questions.question import Query, Sample

LENGTH, ROWS = 32, 64


class Letters(ByteTokenizer):
    """A letter for every token of the task; spaces are none. A filler token starts documents and pads rows."""

    vocab_size = 64
    bos = pad = 63
    eos, ends = -1, ()

    def encode_with_spans(self, text, special=False, name="the text"):
        at = np.array([i for i, byte in enumerate(text) if byte != ord(" ")])
        return np.frombuffer(text, np.uint8)[at].astype(np.int32) - ord("#"), np.stack([at, at + 1], -1)

    def encode(self, text, name="the text"):
        return self.encode_with_spans(text)[0]

    def decode(self, ids):
        return "".join(chr(token + ord("#")) for token in ids)


class Recalled:
    """The one token behind a key."""

    budget = 1

    def score(self, answer, query):
        return float(answer.strip() == query.gold[0])


def samples(task) -> list[tuple[Sample, Query]]:
    """Every key of some rows asked for, each behind the haystack alone."""
    letters, rows = Letters(), recall.RecallRows(task, LENGTH, seed=1)
    values = [letters.decode([value]) for value in range(task.key_tokens, task.key_tokens + task.value_tokens)]
    found = []
    for number in range(ROWS):
        ids, _ = rows.row(number)
        start = LENGTH + 1 - 2 * task.needles
        queries = []
        for key, value in ids[start:].reshape(-1, 2):
            gold = letters.decode([value])
            wrong = [other for other in values if other != gold]
            queries.append(Query("", letters.decode([key]), (gold,), (gold, *wrong)))
        sample = Sample(letters.decode(ids[:start]), tuple(queries))
        found += [(sample, query) for query in queries]
    return found


@pytest.mark.nightly
def test_forced_chosen_and_written_answers_are_those_of_one_model():
    config = configs.from_command_line(["command", "--config=configs/recall.py"])[0]
    config = dataclasses.replace(config, stages=config.stages[:1])
    mesh = meshes.make(config.mesh)
    params, _ = training.trained(config, mesh)
    read, asked = predictor(config, mesh, params, config.model.rope), samples(config.recall)
    of = {
        way: np.array([answer.score for answer in ask(read, Letters(), LENGTH, Recalled(), asked)])
        for way, ask in asking.WAYS.items()
        if way != "turns"
    }
    assert of["generate"].mean() > 0.9
    np.testing.assert_array_equal(of["forced"], of["generate"])
    assert (of["choice"] >= of["forced"]).all(), "what is likeliest of all tokens is so among the values"
    assert of["choice"].mean() - of["forced"].mean() < 0.02, "and hardly anything else is likeliest"
