"""What tasks of recall promise beyond the laws of all: solvers agree with Python, scores cannot be had by listing."""

import itertools
import json
import statistics

import numpy as np
import pytest

from longctx.evals.questions import bios_people as people
from longctx.evals.questions import scores, words
from longctx.evals.questions.api import QUESTIONS
from longctx.evals.questions.bios import Bios
from longctx.evals.questions.copying import NOISE, WORDS, ManyClasses
from longctx.evals.questions.infinite import NestedCalls, RunningTotal
from longctx.evals.questions.keyvalue import Associations, JointRecall
from longctx.evals.questions.threads import Threads


def sample(task, seed=0, size=50):
    """(context, queries)."""
    return task.sample(np.random.default_rng(seed), size)[:2]


@pytest.mark.parametrize("name", ["json_kv", "json_kv_multi"])
def test_pairs_are_json(name):
    context, queries = sample(QUESTIONS[name])
    pairs = json.loads(context[context.index("{") :])
    assert len(pairs) == 50 + len(queries)
    for query in queries:
        assert {pairs[query.question.split('"')[1]]} == set(query.gold) and set(query.candidates) <= set(pairs.values())


@pytest.mark.parametrize("direction", ["forward", "backward", "random"])
def test_threads_run_in_their_direction(direction):
    orders = set()
    for seed in range(10):
        context, (query,) = sample(Threads(steps=3, direction=direction), seed)
        pairs = json.loads(context[context.index("{") :])
        key, path = query.question.split()[-1], []
        while key in pairs:
            path.append(list(pairs).index(key))
            key = pairs[key]
        assert len(path) == 3 and key == query.gold[0] and set(query.candidates) <= set(pairs.values())
        orders.add((path == sorted(path), path == sorted(path, reverse=True)))
    assert orders == {"forward": {(True, False)}, "backward": {(False, True)}}.get(direction, orders)
    assert len(orders) > 1 or direction != "random"


def test_functions_return_the_gold_in_python():
    for seed, calls in itertools.product(range(5), (2, 5, 10)):
        context, (query,) = sample(NestedCalls(calls=calls), seed)
        scope = {}
        exec(context.partition("\n\n")[2], scope)
        assert str(eval(query.prefix.split()[0], scope)) == query.gold[0] == query.candidates[0]


def test_numbers_found_are_the_sorted_list():
    for seed in range(20):
        context, queries = sample(QUESTIONS["infinite_find"], seed)
        numbers = sorted(map(int, context.partition(": ")[2].rstrip(".").split(", ")))
        assert len(numbers) == 107 and len(set(numbers[:4])) == len(set(numbers[-4:])) == 4
        found = [*numbers[:3], statistics.median(numbers), *numbers[-3:]]
        assert [int(query.gold[0]) for query in queries] == found


def test_any_list_of_values_scores_chance():
    task, rng = RunningTotal(steps=2), np.random.default_rng(0)
    golds = [task.sample(rng, 1).queries[0] for _ in range(2000)]
    start = lambda query: int(query.prefix.split()[-2])
    told = [f"{(start(query) + 7) % 100}, {(start(query) + 20) % 100}" for query in golds]
    found = np.mean([task.score(answer, query) for answer, query in zip(told, golds, strict=True)])
    assert abs(found - task.chance(golds[0])) < 3 * np.sqrt(task.chance(golds[0]) / 2 / 2000)


def test_names_come_first_or_do_not_count():
    known = ("Ann Lee", "Ann", "Bo")
    named = lambda answer, *gold: scores.named_in_order(answer, gold, known)
    assert named("It is ann lee.", "Ann Lee") == named("Bo, then Ann", "Bo", "Ann") == named("Bo, or Ann", "Bo") == 1
    assert named("Ann Lee", "Ann") == named("Bo, Ann", "Ann") == named("", "Bo") == named("Bo", "Bo", "Ann") == 0
    assert scores.leading_share([1, 2, 9], [1, 2, 3, 4]) == 0.5 and scores.leading_share([1, 2, 3], [1, 2]) == 1


def test_listing_all_values_of_an_attribute_does_not_pass():
    task, right = Bios(count=2), 0
    for seed in range(50):
        (query,) = sample(task, seed, 1)[1]
        right += task.score(" ".join(value for values in people.VALUES.values() for value in values) * 2, query)
    assert right == 0


def test_lists_have_each_word_once_and_none_in_common():
    lists = [*people.VALUES.values(), WORDS, NOISE, words.PERSONS, people.FAMILY]
    assert all(len(set(values)) == len(values) for values in lists)
    for one, other in itertools.combinations([*people.VALUES.values(), (*words.PERSONS, *people.FAMILY)], 2):
        assert not set(one) & set(other)
    assert not set(WORDS) & set(NOISE)
    coined = words.take(words.coined(np.random.default_rng(0)), 2000)
    assert len(set(coined)) == 2000


def test_grouped_examples_stand_by_class():
    context, _ = sample(ManyClasses(classes=5, grouped=True))
    labels = [line.split()[-1] for line in context.splitlines()[1:]]
    assert len(labels) == 55 and len(list(itertools.groupby(labels))) == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Threads(steps=0),
        lambda: Threads(direction="up"),
        lambda: Associations(pairs=4),
        lambda: Associations(pairs=90),
        lambda: JointRecall(contexts=4),
        lambda: Bios("rank"),
        lambda: Bios("citation", count=2),
        lambda: Bios("age"),
    ],
)
def test_settings_that_no_sample_can_have(make):
    with pytest.raises(ValueError):
        make()


def test_a_longer_biography_text_keeps_the_shorter_one():
    known = people.different(np.random.default_rng(0), 8)
    short, long = (people.others(np.random.default_rng(1), count, known) for count in (100, 500))
    assert long[:100] == short and len({person["name"] for person in known + long}) == 508
    text = "\n".join(people.biography(person) for person in long)
    assert list(people.read(text).values()) == long
