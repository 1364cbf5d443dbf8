"""LongPPL on models of known losses: which tokens are key, by the rules and by another tokenizer, and what it says."""

import json

import numpy as np
import pytest

from longctx.config import EvalConfig
from longctx.data import tokenizers
from longctx.data.document import Document
from longctx.errors import UserError
from longctx.evals import api, batches, key_tokens
from longctx.evals.batches import Prediction
from longctx.evals.key_tokens import Evaluator
from longctx.evals.tasks import longppl
from tests.longctx.data import tiny_tokenizers as tiny
from tests.longctx.hf import tiny as models

K, S = 6, 4


def knows(letter, bos, after=12, early=5.0, late=0.5):
    """A model to which a letter is easy once it has read `after` tokens from the start marker; all else costs 1 nat."""

    def predictor(batch):
        from_start = (batch["tokens"][:, :1] == bos) & (batch["positions"] >= after)
        nll = np.where(batch["targets"] == letter, np.where(from_start, late, early), 1.0)
        return Prediction(np.where(batch["weights"] > 0, nll, np.nan), np.zeros(nll.shape, bool))

    return predictor


def evaluator(tokenizer, **known):
    return Evaluator("judge", knows(ord("k"), tokenizer.bos, **known), tokenizer)


def brute(predictor, tokenizer, text):
    """The key tokens of a text by the rules, one token at a time; token 0 is the start marker."""
    ids = np.append(tokenizer.bos, tokenizer.encode(text)).astype(np.int32)

    def loss(start, token):
        piece = batches.Piece(ids[start:token], ids[start + 1 : token + 1])
        return batches.score(predictor, [[piece]], 64, tokenizer.pad)[0][0].nll[-1]

    found = []
    for token in range(K, len(ids)):
        long, short = loss(0, token), loss((token - K) // S * S, token)
        found += [token] * bool(short - long > 2 and long < 2)
    return found


@pytest.mark.parametrize("size", [3, K, K + 1, 20, 27, 50])
def test_key_tokens_by_the_rules(byte_tokenizer, size):
    text = (b"abckdek" * 10)[:size]
    judge = evaluator(byte_tokenizer)
    want = brute(judge.predictor, byte_tokenizer, text)
    (found,) = key_tokens.find(judge, [text], K, S)
    assert [token for start, end in found for token in range(start + 1, end + 1)] == want
    assert all(token >= K for token in want) and (not want) == (size < 13)


def test_short_contexts_are_windows_of_k_and_s(byte_tokenizer):
    seen = []
    judge = evaluator(byte_tokenizer)
    judge = judge._replace(predictor=lambda batch, read=judge.predictor: seen.append(batch) or read(batch))
    assert key_tokens.find(judge, [b"k" * 21], K, S) == [[[12, 21]]]
    full, short = seen
    assert full["tokens"].shape[1] == key_tokens.ROW_UNIT and full["weights"].sum() == 22 - K
    np.testing.assert_array_equal((short["segments"] > 0).sum(axis=1), [K + S - 1] * 4)
    np.testing.assert_array_equal(short["weights"].sum(axis=1), [S] * 4)
    assert (short["tokens"][0, 0], short["tokens"][1, 0]) == (byte_tokenizer.bos, ord("k"))


@pytest.mark.parametrize("early, late", [(2.4, 0.5), (9.0, 2.1)])
def test_a_small_gain_or_a_large_loss_is_not_key(byte_tokenizer, early, late):
    judge = evaluator(byte_tokenizer, early=early, late=late)
    assert key_tokens.find(judge, [b"k" * 30], K, S) == [[]]


def test_stretches():
    assert key_tokens.merged(np.array([[0, 2], [2, 3], [5, 6], [5, 6], [8, 9]])) == [[0, 3], [5, 6], [8, 9]]
    spans = np.array([[0, 1], [1, 3], [3, 5], [5, 6], [6, 6], [8, 10], [8, 9]])
    np.testing.assert_array_equal(
        key_tokens.inside(spans, [[0, 3], [5, 6], [8, 9]]), [True, True, False, True, True, False, True]
    )
    assert not key_tokens.inside(spans, []).any()


def measure(documents, tokenizer, judge, config, length, predictor):
    chosen = batches.long_documents(documents, tokenizer, (length,), config.documents, 0)[length]
    return longppl.at_length(predictor, chosen, tokenizer, judge, config, length)


CONFIG = EvalConfig(key_context=K, key_stride=S)


def test_keys_are_carried_to_another_tokenizer(tmp_path, byte_tokenizer):
    """The evaluator reads bytes, the model tokens of up to three: one counts where all of its bytes are key."""
    tokenizer = tokenizers.load(tiny.write(tmp_path, tiny.byte_level("<s>", "</s>")))
    text = "é" + "x" * 20 + " 12 kk 12"
    judge = Evaluator("judge", knows(ord("k"), byte_tokenizer.bos), byte_tokenizer)
    flat = lambda batch: Prediction(batch["targets"] / 100, np.zeros(batch["tokens"].shape, bool))
    documents = [Document("a", text.encode())]
    length = len(tokenizer.encode(text.encode()))
    record = measure(documents, tokenizer, judge, CONFIG, length, flat)
    (k,) = tokenizer.encode(b"k")
    assert record["key_tokens"] == 2 and record["tokens"] == length and record["loss"] == pytest.approx(k / 100)
    digits = judge._replace(predictor=knows(ord("2"), byte_tokenizer.bos))
    record = measure(documents, tokenizer, digits, CONFIG, length, flat)
    assert record["reason"] == "no key token in 1 documents, by judge"  # a digit alone is part of a token
    # a model of bytes that stops inside of a character: the evaluator is given the whole ones
    judge = Evaluator("judge", knows(k, tokenizer.bos, after=4), tokenizer)
    text = b"x" * 9 + b"k" * 9 + "é".encode()
    found = measure([Document("b", text)], byte_tokenizer, judge, CONFIG, 19, flat)
    assert found["key_tokens"] == 9 and found["tokens"] == 19


def test_documents_count_by_their_key_tokens(byte_tokenizer):
    judge = evaluator(byte_tokenizer)
    documents = [Document("a", b"a" * 20 + b"k" * 4), Document("b", b"b" * 20 + b"k" * 12), Document("c", b"c" * 30)]

    def by_document(batch):
        """0.1 nats a token in the first, 0.2 in the second, 0.3 in the third."""
        nll = np.broadcast_to((batch["tokens"][:, 1:2] - 96) / 10, batch["tokens"].shape)
        return Prediction(nll, np.zeros(nll.shape, bool))

    result = {"evaluator": "judge", "context": K, "stride": S}
    result["lengths"] = [measure(documents, byte_tokenizer, judge, CONFIG, n, by_document) for n in (24, 6)]
    record, short = result["lengths"]
    assert (record["key_tokens"], record["tokens"], record["documents"]) == (8, 72, 3)  # of 24 tokens, 4 and 4
    assert record["longppl"] == pytest.approx((np.exp(0.1) + np.exp(0.2)) / 2, rel=1e-4)
    assert record["loss"] == pytest.approx(0.15) and record["all_loss"] == pytest.approx(0.2)
    assert record["perplexity"] == pytest.approx(np.exp([0.1, 0.2, 0.3]).mean(), rel=1e-4)
    assert longppl.mean_perplexity([np.full(1, 0.1), np.full(3, 0.2)]) == pytest.approx(
        (np.exp(0.1) + 3 * np.exp(0.2)) / 4, rel=1e-4
    )
    assert short["reason"] == "the short context is as long, eval.key_context=6"
    assert longppl.is_result(result) and json.loads(json.dumps(result, allow_nan=False)) == result
    words = longppl.finding(result, 24)
    assert "LongPPL 1.163 (key tokens by judge, K = 6, S = 4)" in words and "6 tokens not measured" in words
    assert longppl.headline(result, 24) == "LongPPL 1.163 (by judge)"
    (axes,) = longppl.figure(result, [24], 12).axes
    assert axes.get_title("left") == "key tokens by judge, K = 6, S = 4"
    assert not longppl.is_result(result | {"evaluator": None})


def test_a_model_that_judges_itself_is_marked(byte_tokenizer):
    documents = [Document("a", b"abck" * 10)]
    read = knows(ord("k"), byte_tokenizer.bos)
    result = longppl.run(read, documents, byte_tokenizer, CONFIG, (32, 999), 0)
    assert result["evaluator"] == "self: circular" and "self: circular" in longppl.finding(result, 32)
    record, missing = result["lengths"]
    assert record["loss"] == 0.5 and record["key_tokens"] == 5 and longppl.is_result(result)
    assert "no held-out document is that long" in missing["reason"]
    assert "self: circular" in longppl.figure(result, [32, 999], 32).axes[0].get_title("left")
    nothing = longppl.run(read, [], byte_tokenizer, CONFIG, (32,), 0)
    assert longppl.figure(nothing, [32], 32) is None and longppl.headline(nothing, 32) == ""


def test_what_is_found_is_kept_by_text_and_settings(byte_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGCTX_CACHE", str(tmp_path))
    calls = []
    judge = evaluator(byte_tokenizer)._replace(checksum="00c0ffee")
    judge = judge._replace(predictor=lambda batch, read=judge.predictor: calls.append(1) or read(batch))
    find = lambda texts, context=K, judge=judge: key_tokens.find(judge, texts, context, S)
    first = find([b"k" * 30])
    assert first == [[[12, 30]]] and len(calls) == 2
    assert find([b"k" * 30]) == first and len(calls) == 2
    assert find([b"l" * 30, b"k" * 30]) == [[], *first] and len(calls) == 4  # one text of the two is read
    for other in (lambda: find([b"k" * 30], K + 1), lambda: find([b"k" * 30], K, judge._replace(checksum="1"))):
        before = len(calls)
        assert other() and len(calls) == before + 2
    for path in (tmp_path / "longppl").glob("*.json"):
        path.write_text("[[1")
    assert find([b"k" * 30]) == first and len(calls) == 10
    find([b"k" * 30], K, judge._replace(checksum=""))
    assert len(calls) == 12 and len(list((tmp_path / "longppl").iterdir())) == 4


def test_an_evaluator_that_is_made_for_less_gives_a_reason(byte_tokenizer):
    judge = evaluator(byte_tokenizer)._replace(reach=16)
    record = measure([Document("a", b"k" * 40)], byte_tokenizer, judge, CONFIG, 32, judge.predictor)
    assert record["reason"] == "eval.evaluator, 'judge', is made for 16 tokens, and the text has 32"


def test_an_evaluator_of_another_kind_is_refused(tmp_path):
    check = lambda evaluator: api.check(EvalConfig(tasks=("longppl",), evaluator=str(evaluator)))
    (tmp_path / "text.txt").write_text("no model")
    (tmp_path / "empty").mkdir()
    models.write(tmp_path / "model", "llama")
    for evaluator, message in (
        (tmp_path / "none", "eval.evaluator=.* does not exist"),
        (tmp_path / "text.txt", "eval.evaluator=.* is a file of another kind"),
        (tmp_path / "empty", "has no config.json"),
        (tmp_path / "model", "eval.evaluator=.* has no tokenizer.json"),
    ):
        with pytest.raises(UserError, match=message):
            check(evaluator)
    api.check(EvalConfig(tasks=("longppl",)))
    api.check(EvalConfig(evaluator=str(tmp_path / "none")))  # nothing reads it
