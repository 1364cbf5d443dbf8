"""RULER's tasks besides needles: their published parameters, and ties that cannot be."""

import re
from collections import Counter

import numpy as np
import pytest

from longctx.evals.questions import fit, words
from longctx.evals.questions.api import QUESTIONS
from longctx.evals.questions.qa_facts import FactDocuments
from longctx.evals.questions.ruler import CommonWords, FrequentWords, VariableTracking


@pytest.mark.parametrize("chains", [1, 3])
def test_chains_are_in_order_and_of_five_letters(chains):
    task = VariableTracking(chains=chains)
    for seed in range(20):
        sample = task.sample(np.random.default_rng(seed), 30)
        known = set()
        lines = re.findall(r"^VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d{5}))$", sample.context, re.MULTILINE)
        for name, of, value in lines:
            assert (value or of in known) and name not in known
            known.add(name)
        assert len(known) == 5 * chains and sum(1 for *_, value in lines if value) == chains
        assert len(sample.queries[0].gold) == 5 and known >= set(sample.queries[0].gold)


def test_common_words_come_ten_times_as_often_as_others():
    sample = CommonWords().sample(np.random.default_rng(0), 40)
    items = sample.context.partition("\n")[2].split()
    assert items[::2] == [f"{i}." for i in range(1, 10 * 30 + 40 * 3 + 1)]
    counts = Counter(items[1::2])
    assert {word for word, count in counts.items() if count == 30} == set(sample.queries[0].gold)
    assert sorted(counts.values()) == [3] * 40 + [30] * 10


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.5])
def test_frequent_words_are_never_tied_and_follow_zipf(alpha):
    task = FrequentWords(alpha=alpha)
    for size in (*range(task.smallest, task.smallest + 300), 3_000):
        sample = task.sample(np.random.default_rng(size), size)
        counts = Counter(sample.context.partition("\n")[2].split()).most_common(5)
        assert [word for word, _ in counts[:4]] == ["...", *sample.queries[0].gold]
        assert len({count for _, count in counts}) == len(counts)
        assert all(abs(count - size / rank**alpha) <= 1 for rank, (_, count) in enumerate(counts, 1))


def test_parameters_that_have_no_answer_are_refused():
    for task, wrong in (
        (VariableTracking, dict(chains=0)),
        (CommonWords, dict(often=3)),
        (FrequentWords, dict(asked=1999)),
        (FactDocuments, dict(hops=8)),
    ):
        with pytest.raises(ValueError):
            task(**wrong)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_facts_of_documents_lead_from_person_to_person(hops):
    task = FactDocuments(hops=hops)
    for seed in range(20):
        sample = task.sample(np.random.default_rng(seed), 10)
        query = sample.queries[0]
        documents = sample.context.splitlines()[1:]
        assert len(documents) == 18 and task.score(task.solve(sample.prompt(query)), query) == 1
        names = [Counter(re.findall(r"[A-Z]\w+ [A-Z]\w+(?=\W)", text)).most_common(1)[0][0] for text in documents]
        assert len(set(names)) == 18
        person = re.findall(r"\w+ \w+(?=\?)", query.question)[0]
        for _ in range(hops - 1):
            text = documents[names.index(person)]
            person = next(name for name in names if name != person and name in text)
        assert query.gold[0] in documents[names.index(person)]
        assert all(any(value in text for text in documents) for value in query.candidates)


def test_drawn_words_are_each_once_and_grow_when_they_are_used_up():
    rng = np.random.default_rng(0)
    few = words.take(words.codes(rng, 1), 100)
    lengths = [len(word) for word in few]
    assert len(set(few)) == 100 and lengths == sorted(lengths) and 13 <= lengths.count(1) <= 26
    many = words.take(words.coined(rng), 20_000)
    assert len(set(many)) == 20_000 and {len(word) for word in many} == {6}
    assert "".join(words.placed(["a", "b"], zip([1.0, 0.5, 0.49, 0.0], list("zyxw"), strict=True))) == "waxybz"


@pytest.mark.parametrize("name", ["vt", "cwe", "fwe", "qa_facts_1"])
def test_a_large_context_is_soon_made(name):
    task = QUESTIONS[name]
    sample = fit.drawn(task, name, 0, 0, 2_000)
    assert (
        len(sample.context) > 10_000
        and task.score(task.solve(sample.prompt(sample.queries[0])), sample.queries[0]) == 1
    )
