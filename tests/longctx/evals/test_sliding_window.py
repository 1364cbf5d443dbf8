"""Perplexity by sliding windows: which tokens count, from how much context, and what is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.config import EvalConfig
from longctx.data.document import Document
from longctx.errors import UserError
from longctx.evals import api
from longctx.evals.batches import Prediction, long_document
from longctx.evals.tasks import sliding_window
from longctx.evals.tasks.sliding_window import rolling, sliding


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 60), st.data())
def test_each_token_counts_once_and_has_the_context_that_is_said(targets, window, data):
    stride = data.draw(st.integers(1, window))
    for windows, overlap in (
        (sliding(targets, window, stride), window - stride),
        (rolling(targets, window, window), 0),
    ):
        counted = [i for each in windows for i in range(each.first, each.end)]
        assert counted == list(range(targets))
        assert all(0 <= each.start <= each.first < each.end <= each.start + window for each in windows)
        assert windows[0].start == 0 and all(each.first - each.start >= overlap for each in windows[1:])
    assert all(each.start % stride == 0 for each in sliding(targets, window, stride))
    assert targets < window or all(each.end - each.start == window for each in rolling(targets, window, window))


def test_windows_of_a_small_text():
    assert sliding(10, 4, 2) == [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    assert sliding(9, 4, 4) == [(0, 4, 0), (4, 8, 4), (8, 9, 8)]  # the last window is short
    assert rolling(9, 4, 4) == [(0, 4, 0), (4, 8, 4), (5, 9, 8)]  # and here it is full
    assert sliding(3, 4, 1) == [(0, 3, 0)] == rolling(3, 4, 4)


def by_context(batch):
    """A model whose loss is 1 / the tokens it has read, NaN where nothing is asked; the end marker costs 50 nats."""
    nll = np.where(batch["targets"] == 257, 50.0, 1 / (batch["positions"] + 1))
    return Prediction(np.where(batch["weights"] > 0, nll, np.nan), np.zeros(batch["tokens"].shape, bool))


def run(config, lengths, texts, tokenizer, predictor=by_context):
    documents = [Document(f"{i}", text) for i, text in enumerate(texts)]
    result = sliding_window.run(predictor, documents, tokenizer, config, lengths, 0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result and sliding_window.is_result(result)
    return result


def test_the_loss_is_that_of_the_last_tokens_of_windows(byte_tokenizer):
    texts = [b"ab" * 20, b"c" * 35, b"too short"]
    result = run(EvalConfig(stride=4), (16,), texts, byte_tokenizer)
    (record,) = result["lengths"]
    # 41 and 36 targets, the end markers among them: 16 of the first window, then the last four of each
    of = lambda places: [1 / (p + 1) for p in places]
    later = of(range(12, 16))
    first, second = of(range(16)) + 6 * later + [50.0], of(range(16)) + 5 * later
    second[-1] = 50.0
    assert len(first) == 41 and len(second) == 36
    assert record["tokens"] == 77 and record["stride"] == 4 and record["documents"] == 2
    assert record["loss"] == pytest.approx((sum(first) + sum(second)) / 77, rel=1e-4)
    assert record["perplexity"] == pytest.approx(math.exp(record["loss"]), rel=1e-4)
    text = sum(first) + sum(second) - 100
    assert record["bits_per_byte"] == pytest.approx(text / math.log(2) / 75, rel=1e-4)
    assert "sliding windows, W = 16, S = 4" in sliding_window.finding(result, 512)
    assert sliding_window.headline(result, 512).endswith("(W = 16, S = 4)")
    (legend,) = [axes.get_legend() for axes in sliding_window.figure(result, [16], 8).axes]
    assert [text.get_text() for text in legend.get_texts()] == ["W = 16, S = 4 (beyond training)"]


def test_a_window_holds_the_text_as_it_is(byte_tokenizer):
    """Only the first begins with the start marker; nothing is asked of the tokens that others count."""
    seen = []
    text = bytes(range(40))
    run(EvalConfig(windows="rolling"), (16,), [text], byte_tokenizer, lambda b: seen.append(b) or by_context(b))
    (batch,) = seen
    ids = long_document(byte_tokenizer, Document("a", text)).ids
    np.testing.assert_array_equal(batch["tokens"], [ids[:16], ids[16:32], ids[25:41]])
    np.testing.assert_array_equal(batch["targets"], [ids[1:17], ids[17:33], ids[26:42]])
    np.testing.assert_array_equal(batch["weights"].sum(axis=1), [16, 16, 9])


def test_the_same_tokens_count_at_every_window(byte_tokenizer):
    texts = [bytes([97 + i]) * 500 for i in range(3)]
    records = run(EvalConfig(document_tokens=300), (16, 64, 256), texts, byte_tokenizer)["lengths"]
    assert [record["tokens"] for record in records] == [900] * 3 and [r["stride"] for r in records] == [8, 32, 128]
    assert records[0]["loss"] > records[1]["loss"] > records[2]["loss"]
    assert [record["error"] for record in records] == pytest.approx([0] * 3, abs=1e-9)  # documents of one loss


def test_what_does_not_fit_says_why(byte_tokenizer):
    result = run(EvalConfig(stride=20), (16, 32, 1024), [b"a" * 100], byte_tokenizer)
    short, fits, long = result["lengths"]
    assert "eval.stride=20 leaves out tokens between windows of 16" in short["reason"] and "loss" in fits
    assert "no held-out document is that long" in long["reason"]
    words = sliding_window.finding(result, 64)
    assert (
        "W = 32" in words and "16 tokens not measured: eval.stride=20" in words and "1,024 tokens not measured" in words
    )
    nothing = run(EvalConfig(), (1024,), [b"a"], byte_tokenizer)
    assert sliding_window.figure(nothing, [1024], 1) is None and sliding_window.headline(nothing, 1) == ""


def test_a_broken_model_is_said(byte_tokenizer):
    broken = lambda batch: by_context(batch)._replace(nll=np.full(batch["tokens"].shape, np.nan))
    result = run(EvalConfig(), (16,), [b"a" * 100], byte_tokenizer, broken)
    assert result["lengths"][0]["loss"] is None and "not finite" in sliding_window.finding(result, 16)
    assert sliding_window.headline(result, 16) == ""


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(windows="slide"), "eval.windows='slide' is not known. Did you mean 'sliding'"),
        (dict(windows="rolling", stride=8), "eval.stride=8 has no effect"),
        (dict(lengths=(512, 64), stride=128), "eval.stride=128 leaves out tokens between windows of 64"),
        (dict(lengths=(512,), document_tokens=100), "eval.document_tokens=100 are fewer than a window of 512"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(UserError) as caught:
        api.check(EvalConfig(tasks=("sliding_window",), **settings))
    assert message in str(caught.value)
    if "windows" not in settings:
        api.check(EvalConfig(**settings))  # nothing reads them
