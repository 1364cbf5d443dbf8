"""Scores of documents: planted dependencies over a long distance come first, answers alone count."""

import numpy as np
import pytest

from longctx.data.document import Document
from longctx.data.tokenizers import ByteTokenizer
from longctx.evals import selection
from longctx.evals.batches import LongDocument, Prediction, long_document
from longctx.evals.selection import SCORES, Plan

TOKENIZER = ByteTokenizer()
PLAN = Plan(512, 64, TOKENIZER.bos, TOKENIZER.pad)


def reader(reach=10**9):
    """A model that knows what follows four bytes if it has read them before, up to `reach` tokens back."""

    def predict(batch):
        nll = np.full(batch["tokens"].shape, 5.0)
        for row, segments in enumerate(batch["segments"]):
            for segment in range(1, segments.max() + 1):
                seen, at = {}, np.flatnonzero(segments == segment)
                tokens = batch["tokens"][row, at].tolist()
                for i in range(3, len(tokens)):
                    key = tuple(tokens[i - 3 : i + 1])
                    last, follower = seen.get(key, (-1, -1))
                    if last >= i - reach and follower == batch["targets"][row, at[i]]:
                        nll[row, at[i]] = 0.5
                    seen[key] = i, int(batch["targets"][row, at[i]])
        return Prediction(nll, nll < 1)

    def attended(batch, parts, count):
        """All attention of a target that is known on what told it; of others even."""
        known, found = predict(batch), np.zeros((len(parts), count))
        for row in range(len(parts)):
            for at in np.flatnonzero(batch["weights"][row]):
                tokens = batch["tokens"][row, : at + 1].tolist()
                told = [i for i in range(3, at) if tokens[i - 3 : i + 1] == tokens[-4:]]
                for seen in told[-1:] if known.top[row, at] else range(at + 1):
                    part = parts[row, seen]
                    found[row, part] += (part >= 0) / (1 if known.top[row, at] else at + 1)
        return found

    predict.attended = attended
    return predict


def documents() -> dict[str, LongDocument]:
    """Random letters; a passage that comes again far behind; and one that comes again at once."""
    letters = np.random.default_rng(0).integers(97, 123, 500).astype(np.uint8).tobytes()
    passage = letters[:60]
    texts = {"none": letters, "far": passage + letters[60:400] + passage + letters[460:]}
    texts["near"] = letters[:400] + letters[370:400] * 2 + letters[460:]
    return {name: long_document(TOKENIZER, Document(name, text)) for name, text in texts.items()}


@pytest.mark.parametrize("name", ["context", "pairs", "awareness"])
def test_planted_dependencies_come_first(name):
    scores = {key: SCORES[name]([reader()], document, PLAN) for key, document in documents().items()}
    assert scores["far"] > 5 * max(abs(scores["none"]), abs(scores["near"]), 1e-3)


def test_attention_that_misses_what_matters_is_worth_less():
    """All attention on the one segment that matters is worth all but an even share; on another, less than nothing."""
    document, scores = documents()["far"], {}
    document = document._replace(counts=(np.arange(document.targets) >= 400) & (np.arange(document.targets) < 460))
    for segment in range(5):
        model = reader()
        model.attended = lambda batch, parts, count, segment=segment: np.eye(count)[segment : segment + 1]
        scores[segment] = selection.awareness([model], document, PLAN)
    assert scores[0] > 0.7 and all(-0.2 <= scores[segment] < -0.1 for segment in range(1, 5))


def test_the_gap_of_two_models_is_what_the_second_cannot_reach():
    scores = {key: selection.gap([reader(), reader(100)], document, PLAN) for key, document in documents().items()}
    assert scores["far"] > 0.3 and scores["none"] == scores["near"] == 0


def test_a_context_is_worth_what_is_saved():
    """Of 437 targets behind the first 64, some of the passage's 60 are known with all of the text, none with little."""
    document = documents()["far"]
    found = selection.context([reader()], document, PLAN)
    known = reader()(
        {"tokens": document.ids[None, :-1], "targets": document.ids[None, 1:], "segments": np.ones((1, 501), int)}
    )
    saved = (5 - known.nll[0, 64:]).sum()
    assert found == pytest.approx(saved / 437) and saved / 4.5 >= 55


@pytest.mark.parametrize("name", SCORES)
def test_answers_alone_count(name):
    """The passage again is the answer, or it is not."""
    document, models = documents()["far"], [reader(), reader(100)]
    answer = np.zeros(document.targets, bool)
    answer[400:460] = True
    score = lambda counts: SCORES[name](models, document._replace(counts=counts), PLAN)
    assert score(answer) > score(np.ones_like(answer)) > score(~answer)
    assert np.isnan(score(np.zeros_like(answer)))


@pytest.mark.parametrize("name", SCORES)
def test_short_documents_have_no_score(name):
    short = long_document(TOKENIZER, Document("short", b"x" * 40))
    assert np.isnan(SCORES[name]([reader(), reader()], short, PLAN))


def test_long_documents_are_read_to_a_length():
    document, plan = documents()["far"], PLAN._replace(length=256)
    cut = document._replace(ids=document.ids[:257])
    for name in SCORES:
        models = [reader(), reader(100)]
        assert SCORES[name](models, document, plan) == pytest.approx(SCORES[name](models, cut, plan), abs=0.05)
