"""Attribution: models whose answers rest on known segments, and games whose contributions are known."""

import itertools
import json
import math

import numpy as np
import pytest

from longctx.config import EvalConfig
from longctx.errors import UserError
from longctx.evals import api, attribution
from longctx.evals.attribution import CONTRIBUTIONS
from longctx.evals.batches import Prediction
from longctx.evals.questions import fit
from longctx.evals.questions.api import QUESTIONS
from longctx.evals.tasks import attribution as task

WAYS = (("leave_one_out",), ("alone",), ("shapley",), ("shapley_top",), ("leave_one_out", "alone", "shapley_top"))


def reads(needle: str, tokenizer, seen=None):
    """A model to which an answer costs 0.1 nats a token where the text before holds the needle, and 3 elsewhere."""

    def predictor(batch):
        held = np.array([needle in tokenizer.decode(tokens) for tokens in batch["tokens"]])
        if seen is not None:
            seen.extend(map(tokenizer.decode, batch["tokens"]))
        nll = np.broadcast_to(np.where(held, 0.1, 3.0)[:, None], batch["tokens"].shape)
        return Prediction(np.where(batch["weights"] > 0, nll, np.nan), np.zeros(nll.shape, bool))

    return predictor


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_the_planted_segment_is_found_first_with_few_rows(byte_tokenizer, count, ways):
    segments = [f"Line {i} says nothing. " for i in range(count)]
    for place in {0, count // 2, count - 1}:
        planted = [*segments[:place], "The key is 7. ", *segments[place + 1 :]]
        value = attribution.Answer(reads("key is 7", byte_tokenizer), byte_tokenizer, planted, "\nKey?", "7", 1024)
        scores = attribution.search(value, count, ways, keep=2)
        assert task.first_is(scores, place)
        assert scores[place] == pytest.approx(2.9 * (2 if len(ways) > 1 else 1))
        levels, orders = math.ceil(math.log2(max(count, 2))), 2 * attribution.ORDERS
        per_level = {"leave_one_out": 5, "alone": 5, "shapley": 5 * orders, "shapley_top": 5 * orders}
        assert value.rows <= levels * sum(per_level[way] for way in ways)
        assert np.isfinite(scores).sum() >= min(count, 2)


def test_rows_grow_with_the_logarithm(byte_tokenizer):
    rows = {}
    for count in (16, 256):
        value = attribution.Answer(
            reads("!", byte_tokenizer), byte_tokenizer, ["."] * (count - 1) + ["!"], "?", "a", 999
        )
        scores = attribution.search(value, count)
        assert np.nanargmax(scores) == count - 1
        rows[count] = value.rows
    assert rows[16] <= 4 * 11 and rows[256] <= 8 * 11 and rows[256] - rows[16] <= 4 * 11


def test_a_text_is_its_segments_the_question_and_the_answer(byte_tokenizer):
    seen = []
    predictor = reads("two", byte_tokenizer, seen)
    scores = attribution.attribute(predictor, byte_tokenizer, ["one ", "two ", "six "], "what?", "a b", 32)
    assert set(seen) == {"one two six what? a ", "two six what? a ", "one six what? a ", "one two what? a "}
    np.testing.assert_allclose(scores, [0, 3 * 2.9, 0])  # each token of the answer counts
    with pytest.raises(UserError, match="are 21 tokens, over 20"):
        attribution.attribute(predictor, byte_tokenizer, ["one ", "two ", "six "], "what?", "a b", 20)
    with pytest.raises(UserError, match=r"ways\[1\]='shaply' is not known. Did you mean 'shapley'"):
        attribution.attribute(predictor, byte_tokenizer, ["one "], "?", "a", 32, ways=("alone", "shaply"))
    with pytest.raises(UserError, match=r"ways=\(\) finds nothing"):
        attribution.attribute(predictor, byte_tokenizer, ["one "], "?", "a", 32, ways=())


GROUPS = [(0,), (1, 2), (3,), (4, 5, 6)]


@pytest.mark.parametrize("way", CONTRIBUTIONS)
def test_contributions_that_add_up_are_exact(way):
    weights = np.array([3.0, -1.0, 0.5, 0.0, 2.0, 2.0, -7.0])
    value = lambda subsets: np.array([10 + weights[list(subset)].sum() for subset in subsets])
    found = CONTRIBUTIONS[way](value, GROUPS, np.random.default_rng(0))
    np.testing.assert_allclose(found, [3, -0.5, 0, -3], atol=1e-12)


def exact(value, groups):
    """Shapley's values by all orders."""
    total = np.zeros(len(groups))
    orders = list(itertools.permutations(range(len(groups))))
    for order in orders:
        joined = [tuple(sorted(s for i in order[:n] for s in groups[i])) for n in range(len(groups) + 1)]
        total[list(order)] += np.diff(value(joined))
    return total / len(orders)


def test_shapley_shares_what_depends_on_others(monkeypatch):
    """A fact in two segments, and one of two steps: both halves of each get half. Estimates sum to the whole."""
    value = lambda subsets: np.array([4.0 * bool({0, 1} & {*s}) + 6.0 * ({2, 3} <= {*s}) for s in subsets])
    groups = [(i,) for i in range(5)]
    np.testing.assert_allclose(exact(value, groups), [2, 2, 3, 3, 0])
    few = attribution.shapley(value, groups, np.random.default_rng(0))
    assert few.sum() == pytest.approx(10) and few[4] == 0
    monkeypatch.setattr(attribution, "ORDERS", 2000)
    many = attribution.shapley(value, groups, np.random.default_rng(0))
    np.testing.assert_allclose(many, [2, 2, 3, 3, 0], atol=0.15)
    without, by_itself = (CONTRIBUTIONS[way](value, groups, None) for way in ("leave_one_out", "alone"))
    assert without.tolist() == [0, 0, 6, 6, 0] and by_itself.tolist() == [4, 4, 0, 0, 0]
    assert attribution.shapley_top(value, groups, np.random.default_rng(0)).tolist() == [4, 4, 6, 6, 0]


def test_what_the_search_drops_has_no_contribution():
    value = lambda subsets: np.array([float(5 in subset) for subset in subsets])
    scores = attribution.search(value, 16, keep=2)
    assert scores[5] == 1 and np.isnan(scores).sum() == 12
    assert np.isnan(attribution.search(value, 0)).all()


# ---- the task --------------------------------------------------------------------------------------------------------


def test_cuts_are_the_text_and_end_with_a_clause():
    text = "".join(f"This is sentence {i}, and it goes on. " for i in range(40)) + "\nAnd a last one"
    for count in (2, 5, 16):
        segments = task.cut(text, count)
        assert "".join(segments) == text and len(segments) == count
        assert all(segment.endswith((" ", "\n")) for segment in segments[:-1])
        assert max(map(len, segments)) < 2 * len(text) / count
    assert task.cut("no end", 4) == ["no ", "end"] and len(task.cut("a. b. ", 9)) == 2


@pytest.mark.parametrize("name", ["niah_single_2", "niah_multikey_2", "babilong_qa1", "json_kv"])
def test_the_segment_with_the_fact_is_known(byte_tokenizer, name):
    """It holds the answer, about where the question says that the fact is."""
    found = 0
    for index in range(5):
        sample = fit.fitted(QUESTIONS[name], name, byte_tokenizer, 3072, 0, index).sample
        (query,) = sample.queries
        one = task.planted(QUESTIONS[name], sample, query, 8)
        if one is None:  # cut in two, or the person was there before
            continue
        found += 1
        assert query.gold[0] in one.segments[one.fact] and "".join(one.segments) == sample.context
        before = sum(map(len, one.segments[: one.fact])) / len(sample.context)
        assert before - 0.15 < query.depth < before + len(one.segments[one.fact]) / len(sample.context) + 0.15
    assert found >= 3


class Solver:
    """A model that gives the answer of a task's solver 0.1 nats a token, and others 3."""

    def __init__(self, tokenizer, name):
        self.tokenizer, self.name = tokenizer, name

    def __call__(self, batch):
        nll = np.full(batch["targets"].shape, np.nan)
        for row, (targets, weights) in enumerate(zip(batch["targets"], batch["weights"], strict=True)):
            first, last = np.flatnonzero(weights)[[0, -1]]
            prompt, answer = (self.tokenizer.decode(ids) for ids in (targets[:first], targets[first : last + 1]))
            try:
                right = QUESTIONS[self.name].solve(prompt.removesuffix(" ")) == answer.strip()
            except LookupError:
                right = False
            nll[row] = 0.1 if right else 3.0
        return Prediction(np.where(batch["weights"] > 0, nll, np.nan), np.zeros(nll.shape, bool))


def measured(predictor, tokenizer, lengths, **settings):
    config = EvalConfig(**{"samples": 3, "segments": 8} | settings)
    result = task.run(predictor, [], tokenizer, config, lengths, 0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result and task.is_result(result)
    return result


@pytest.mark.parametrize("name", ["niah_single_2", "json_kv"])
def test_a_model_that_reads_is_seen_to_read_the_fact(byte_tokenizer, name):
    result = measured(Solver(byte_tokenizer, name), byte_tokenizer, (64, 2048), questions=(name,))
    short, cell = result["tasks"][0]["cells"]
    assert "too few for" in short["reason"]
    assert cell["asked"] == cell["first"] >= 2 and cell["chance"] == 0.125 and cell["rows"] <= 2 * 11
    assert task.headline(result, 4096) == "facts attributed 100% at 2,048 tokens"
    words = task.finding(result, 4096)
    assert f"(leave_one_out): 100% of {cell['asked']} at 2,048 (chance: 12%)" in words
    (axes,) = task.figure(result, [], 4096).axes
    assert axes.get_title("left") == "leave_one_out"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["chance", name]


def test_a_model_that_does_not_read_finds_nothing(byte_tokenizer):
    """All contributions are equal, and a tie is not first; one that draws its losses is near chance."""
    flat = lambda batch: Prediction(np.ones(batch["tokens"].shape), np.zeros(batch["tokens"].shape, bool))
    names = ("niah_single_2", "threads_forward", "niah_multivalue")
    single, steps, several = measured(flat, byte_tokenizer, (2048,), questions=names)["tasks"]
    assert single["cells"][0]["first"] == 0 < single["cells"][0]["asked"]
    assert {steps["cells"][0].get("reason"), several["cells"][0].get("reason")} <= {task.NO_FACT, task.NO_SEGMENT}
    nothing = measured(flat, byte_tokenizer, (16,), questions=names)
    assert task.figure(nothing, [], 1) is None and task.headline(nothing, 1) == ""
    assert task.finding(nothing, 1) == "No task has a planted fact at the lengths that were measured."


def test_names_are_checked():
    with pytest.raises(UserError, match=r"eval.contributions\[0\]='shap' is not known. Did you mean 'shapley'"):
        api.check(EvalConfig(contributions=("shap",)))
    with pytest.raises(UserError, match=r"eval.contributions=\(\) measures nothing"):
        api.check(EvalConfig(contributions=()))
