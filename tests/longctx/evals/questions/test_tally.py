"""Questions about records, passages and problems: their golds by other means, their scores, chances by brute force."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from longctx.evals.questions import fit, scores
from longctx.evals.questions.api import QUESTIONS
from longctx.evals.questions.lift import Lift
from longctx.evals.questions.passages import CountingStars
from longctx.evals.questions.question import Query
from longctx.evals.questions.tally import TOPICS, Tally, TallyPairs


def records(context: str):
    """(day, user, topic) of the lines of a context, by its own lists of topics."""
    head, lines = context.splitlines()[1 : 1 + len(TOPICS)], context.splitlines()[1 + len(TOPICS) :]
    told = {re.findall(r"Topic (\w+):", line)[0]: set(re.findall(r"\w+", line.partition(":")[2])) for line in head}
    for line in lines:
        day, user, text = line.split(" | ")
        (topic,) = (topic for topic, things in told.items() if things & set(re.findall(r"\w+", text)))
        yield day, user, topic


def test_tallies_by_other_means():
    relations, sides = Counter(), Counter()
    for seed in range(60):
        sample = Tally().sample(np.random.default_rng(seed), 20)
        found = list(records(sample.context))
        most, count, versus, when, leader = sample.queries
        users = re.findall(r"(?:of |does |, |and )([a-z]{6})\b", leader.question.lower())[:4]
        by = Counter((user, topic) for _, user, topic in found)
        top = sorted(TOPICS, key=lambda topic: by[users[0], topic])
        assert most.gold[0] == top[-1] and by[users[0], top[-1]] > by[users[0], top[-2]]
        assert count.gold[0] == str(by[users[1], re.findall(r"topic (\w+)", count.question)[0]])
        topic, other = re.findall(r"topic (\w+) more common than (\w+)", versus.question)[0]
        sign = np.sign(by[users[2], topic] - by[users[2], other])
        assert versus.gold[0] == {1: "more", -1: "less", 0: "equally"}[int(sign)]
        topic, cut = re.findall(r"topic (\w+) before (\S+)", when.question)[0]
        days = [day for day, *of in found if of == [users[3], topic]]
        assert cut not in days and when.gold[0] == (
            "before" if 2 * sum(day < cut for day in days) > len(days) else "after"
        )
        topic = re.findall(r"topic (\w+)", leader.question)[0]
        ranked = sorted(by[user, topic] for user in users)
        assert by[leader.gold[0], topic] == ranked[-1] > ranked[-2]
        relations[versus.gold[0]] += 1
        sides[when.gold[0]] += 1
    assert set(relations) == {"more", "less", "equally"} and min(relations.values()) > 8 and min(sides.values()) > 15


def test_counts_are_uniform_and_the_best_constant_is_their_chance():
    golds = [int(Tally().sample(np.random.default_rng(seed), 1).queries[1].gold[0]) for seed in range(420)]
    query = Query("", "", ("3",))
    assert set(golds) == set(range(2, 9)) and all(abs(golds.count(k) - 60) < 30 for k in range(2, 9))
    assert Tally().chance(query) == pytest.approx(sum(0.75 ** abs(k - 5) for k in range(2, 9)) / 7)
    assert Tally().score("about 5 or 6", query) == 0.75**2 and Tally().score("none", query) == 0
    assert scores.near(10**400, 3) < 1e-100


def test_pairs_by_other_means_and_the_score_of_all_of_them():
    task, every = TallyPairs(users=5), []
    for seed in range(300):
        sample = task.sample(np.random.default_rng(seed), 1)
        query = sample.queries[0]
        users = re.findall(r"\b[a-z]{6}\b(?=,| and| for whom)", query.question)
        pairs = [f"({b}, {a})" for a, b in itertools.combinations(users, 2)]
        every.append(task.score(" ".join(pairs), query))
        if seed < 30:
            by = Counter((user, topic) for _, user, topic in records(sample.context))
            top = {user: max(TOPICS, key=lambda topic, user=user: by[user, topic]) for user in users}
            same = {f"({a}, {b})" for a, b in itertools.combinations(users, 2) if top[a] == top[b]}
            assert len(users) == 5 and same == set(query.gold)
    assert np.mean(every) == pytest.approx(task.chance(query), abs=4 * np.std(every) / 300**0.5)


def test_stars_score_counts_and_ids_apart():
    task = CountingStars(stars=2)
    query = Query("", "", ("123 [bakedo]", "456 [lumeni]"))
    assert task.score("[bakedo] 123, 456 [ Lumeni ]", query) == 1
    assert task.score("123 [bakedo]", query) == pytest.approx(2 / 3)
    assert task.score("123, 456", query) == 0.5 == task.score("[lumeni] [bakedo] [lumeni]", query)
    assert task.score(" ".join(map(str, range(100, 1000))), query) == pytest.approx(task.chance(query))


def test_problems_by_an_author_need_all_results_and_no_others():
    task = Lift()
    query = Query("", "", ("123", "456", "789"))
    assert task.score("789, 123 and 456", query) == 1 and task.score("123", query) == 0.5
    assert task.score(" ".join(map(str, range(100, 1000))), query) == pytest.approx(task.chance(query))


def test_parameters_that_have_no_answer_are_refused():
    for task, wrong in ((Tally, dict(most=4)), (TallyPairs, dict(users=4)), (CountingStars, dict(stars=0))):
        with pytest.raises(ValueError):
            task(**wrong)


def test_the_exception_differs_by_a_letter_and_comes_once():
    for seed in range(50):
        context, (query,), _ = QUESTIONS["repeated_words"].sample(np.random.default_rng(seed), 30)
        (word, many), (other, once) = Counter(context.splitlines()[1].split()).most_common()
        assert (many, once) == (30, 1) and query.gold == (other,) and word not in query.candidates
        assert all(sum(a != b for a, b in zip(word, one, strict=True)) == 1 for one in query.candidates)


@pytest.mark.parametrize("name", ["tally", "tally_pairs", "qa_facts_1", "qa_facts_2", "lift", "counting_stars", "cwe"])
def test_a_larger_context_has_all_that_a_smaller_has(name):
    task, before = QUESTIONS[name], Counter()
    for size in range(task.smallest, task.smallest + 30):
        now = Counter(re.findall(r"\w+", fit.drawn(task, name, 0, 0, size).context))
        assert before < now
        before = now


@pytest.mark.parametrize(
    "name", "vt vt_chains cwe fwe qa_facts_1 tally tally_pairs counting_stars repeated_words lift".split()
)
def test_right_answers_fit_their_budgets_by_bytes(name):
    task = QUESTIONS[name]
    for index in range(20):
        sample = fit.drawn(task, name, 0, index, task.smallest)
        assert all(len(f" {task.solve(sample.prompt(query))}") <= task.budget for query in sample.queries)
