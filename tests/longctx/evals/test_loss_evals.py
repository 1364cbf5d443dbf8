"""Loss by position and gain from context, on predictors whose answer is known in closed form."""

import json
import math

import numpy as np
import pytest

from longctx.config import EvalConfig
from longctx.data import tokenizers
from longctx.data.document import Document
from longctx.evals import batches
from longctx.evals.batches import Prediction
from longctx.evals.tasks import by_position, context_gain
from tests.longctx.data import tiny_tokenizers as tiny

LENGTHS = (256, 1024, 4096)
CONFIG = EvalConfig(documents=3)


def model(nll):
    """A predictor from a function batch -> loss; these tasks do not ask what the top choice is."""

    def predictor(batch):
        losses = np.asarray(nll(batch), np.float32)
        return Prediction(losses, np.zeros(losses.shape, bool))

    return predictor


@model
def falling(batch):
    """A model whose loss falls by 0.1 nat per doubling of the context."""
    return 3 - 0.1 * np.log2(batch["positions"] + 1)


@model
def by_token(batch):
    return batch["targets"]


@pytest.fixture
def documents(document):
    return [document(n, seed) for seed, n in enumerate((9000, 5000, 100, 6000, 2000, 7000))]


def strict(result):
    return json.loads(json.dumps(result, allow_nan=False))


def test_by_position_finds_the_slope(documents, byte_tokenizer):
    result = strict(by_position.run(falling, documents, byte_tokenizer, CONFIG, LENGTHS, 0))
    for record, length in zip(result["lengths"], LENGTHS, strict=True):
        edges = record["edges"]
        assert record["length"] == length == edges[-1] and record["documents"] == 3 and edges == sorted(set(edges))
        assert len(record["loss"]) == len(record["error"]) == len(edges) - 1
        for low, high, loss, error in zip(edges, edges[1:], record["loss"], record["error"], strict=False):
            assert loss == pytest.approx(np.mean(3 - 0.1 * np.log2(np.arange(low, high) + 1)), abs=1e-4)
            assert error == pytest.approx(0, abs=1e-4)
    shortest = result["lengths"][0]
    assert shortest["bits_per_byte"] == pytest.approx(shortest["mean"] / math.log(2), rel=1e-3)


def test_errors_are_over_documents(documents, byte_tokenizer):
    """A loss that differs by document and not inside it: the error is that of 3 documents, not of 24 windows."""

    @model
    def by_text(batch):
        return np.broadcast_to(batch["targets"][:, 5:6] % 3, batch["tokens"].shape)

    same = [Document(d.name, bytes([97 + i]) * len(d.text)) for i, d in enumerate(documents)]
    record = by_position.run(by_text, same, byte_tokenizer, CONFIG, (1024,), 0)["lengths"][0]
    assert record["windows"] > record["documents"] == 3
    possible = [np.std(v, ddof=1) / math.sqrt(3) for v in ((0, 1, 2), (0, 0, 1), (0, 0, 2), (1, 1, 2), (0, 0, 0))]
    assert min(abs(record["error"][0] - value) for value in possible) < 1e-4


def test_gain_is_that_of_the_same_tokens(documents, byte_tokenizer):
    result = strict(context_gain.run(falling, documents, byte_tokenizer, CONFIG, LENGTHS, 0))
    for record, length in zip(result["lengths"], LENGTHS, strict=True):
        assert record["contexts"][-1] == length and record["gain"][-1] == 0
        k = record["scored"]
        expected = [np.mean(3 - 0.1 * np.log2(np.arange(c - k, c) + 1)) for c in record["contexts"]]
        assert record["loss"] == pytest.approx(expected, abs=1e-4)
        assert record["gain"] == pytest.approx(np.array(expected) - expected[-1], abs=1e-4)


def test_every_context_scores_the_same_targets(documents, byte_tokenizer):
    """A predictor that looks at nothing but the target must gain exactly nothing."""
    result = context_gain.run(by_token, documents, byte_tokenizer, CONFIG, LENGTHS, 0)
    for record in result["lengths"]:
        assert record["gain"] == [0.0] * len(record["contexts"]) and record["error"] == [0.0] * len(record["contexts"])


@pytest.mark.parametrize("length", [2, 3, 100, 128, 255, 256, 257, 1000, 8192])
def test_contexts_fit_in_one_row(length):
    contexts = context_gain.contexts_at(length)
    assert contexts == sorted(contexts) and contexts[-1] == length and len(contexts) >= 2
    assert sum(contexts[:-1]) <= length
    assert contexts[0] >= min(128, length // 2)


def test_bits_per_byte_are_of_the_text_whatever_the_tokenizer(tmp_path):
    """A model that spends a bit on each byte: a token of three bytes costs three. The end marker is free to cost."""
    tokenizer = tokenizers.load(tiny.write(tmp_path, tiny.byte_level("<s>", "</s>")))
    text = b"x 12 y" * 200
    long = batches.long_document(tokenizer, Document("a", text))
    assert long.bytes.sum() == len(text) and set(long.bytes[:-1].tolist()) == {1, 3} and long.bytes[-1] == 0
    threes = {int(token) for token, size in zip(long.ids[1:], long.bytes, strict=True) if size == 3}

    @model
    def a_bit(batch):
        sizes = np.where(np.isin(batch["targets"], [*threes]), 3, 1)
        return np.where(batch["targets"] == tokenizer.eos, 1000, sizes * math.log(2))

    documents = [Document("a", text), Document("b", b" 12" * 200 + text)]
    run = lambda length: by_position.run(a_bit, documents, tokenizer, CONFIG, (length,), 0)
    (record,) = strict(run(long.targets))["lengths"]
    assert record["bits_per_byte"] == pytest.approx(1) and record["mean"] > 1
    assert record["bits"] == pytest.approx([1] * len(record["loss"])) and by_position.is_result(run(256))
    assert "; 1.000 bits per byte" in by_position.finding(run(256), 256)
    assert [axes.get_ylabel() for axes in by_position.figure(run(256), [256], 256).axes] == [
        "held-out loss (nats per token)",
        "held-out loss (bits per byte)",
    ]


def test_one_picture_where_tokens_are_bytes(documents, byte_tokenizer):
    result = by_position.run(falling, documents, byte_tokenizer, CONFIG, (256,), 0)
    assert len(by_position.figure(result, [256], 256).axes) == 1
    result["lengths"][0]["bits"] = ["much"]
    assert not by_position.is_result(result)


@pytest.mark.parametrize("task", [by_position, context_gain])
def test_a_length_without_documents_says_so(task, documents, byte_tokenizer):
    result = strict(task.run(falling, documents, byte_tokenizer, CONFIG, (256, 1 << 20), 0))
    assert result["lengths"][0]["documents"] == 3
    assert result["lengths"][1] == {
        "length": 1 << 20,
        "documents": 0,
        "windows": 0,
        "reason": "no held-out document is that long, in 33.6 MB of text at most",
    }


@pytest.mark.parametrize("task", [by_position, context_gain])
def test_repeatable_and_seeded(task, documents, byte_tokenizer):
    runs = [task.run(by_token, documents, byte_tokenizer, CONFIG, (256,), seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("task", [by_position, context_gain])
def test_a_broken_model_gives_valid_json(task, documents, byte_tokenizer):
    result = strict(task.run(model(lambda b: b["targets"] * np.nan), documents, byte_tokenizer, CONFIG, (256,), 0))
    assert set(result["lengths"][0]["loss"]) == {None}


def test_windows_that_are_numbered_say_what_by_position_says(documents, byte_tokenizer):
    """In parts of unlike sizes, and the same windows whatever other lengths are asked for."""
    small = model(lambda batch: batch["targets"] / 50)
    task = by_position.Losses(documents, byte_tokenizer, CONFIG.documents, seed=0)
    assert task.count(1 << 20) == 0
    for length in LENGTHS:
        parts = [task.rows(length, numbers) for numbers in (range(1), range(1, task.count(length)))]
        counts = task.merged([counted(small(batch)) for batch, counted in parts])
        (want,) = by_position.run(small, documents, byte_tokenizer, CONFIG, (length,), 0)["lengths"]
        assert len(counts["loss"]) == want["windows"] and len(set(counts["document"])) == want["documents"] == 3
        summary = task.summary(counts)
        assert summary.value == pytest.approx(want["mean"], rel=1e-4)
        assert summary.high - summary.low == pytest.approx(4 * want["mean_error"], abs=3e-4)  # of five digits
        rows_of = lambda i, counts=counts: [
            r for r, d in zip(counts["loss"], counts["document"], strict=True) if d == i
        ]
        by_document = np.mean([np.mean(rows_of(i), axis=0) for i in range(3)], axis=0)
        np.testing.assert_allclose(by_document, want["loss"], rtol=1e-4)
