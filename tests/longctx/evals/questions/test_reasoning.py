"""Laws of the tasks that take steps of reasoning: their solvers against other ways to find the answer."""

import collections
import math
import re
import statistics

import numpy as np
import pytest

from longctx.evals.questions import fit, listops, paths, scores
from longctx.evals.questions.api import QUESTIONS
from longctx.evals.questions.babilong import FORMS, Babilong, Fact, World
from longctx.evals.questions.countdown import Countdown, solved
from longctx.evals.questions.graphs import Graphwalks
from longctx.evals.questions.latent_list import LatentList
from longctx.evals.questions.question import Query
from longctx.evals.questions.symbolic import Assignments

STORY = [
    Fact("Ann", "move", "attic"),
    Fact("Ann", "take", "pen"),
    Fact("Ann", "move", "cave"),
    Fact("Bob", "move", "cave"),
    Fact("Ann", "give", "pen", "Bob"),
    Fact("Bob", "move", "attic"),
    Fact("Bob", "drop", "pen"),
    Fact("Bob", "move", "tower"),
]


def drawn(task, count=20, size=40):
    for index in range(count):
        sample = fit.drawn(task, "one", 5, index, size + index % 20)
        yield sample, sample.queries[0]


def test_a_world_follows_from_a_story():
    world = World(STORY)
    assert FORMS["qa1"][0].find(world, "Ann") == "cave" and FORMS["qa1"][0].find(world, "Bob") == "tower"
    assert FORMS["qa2"][0].find(world, "pen") == "attic"
    assert world.trails["pen"] == ["attic", "cave", "attic"] and world.before("pen", "attic") == "cave"
    asked = [("pen", "Bob"), ("Ann", "pen"), ("Ann", "Bob"), ("pen",), ("pen",)]
    answers = [form.find(world, *names) for form, names in zip(FORMS["qa5"], asked, strict=True)]
    assert answers == ["Ann", "Bob", "pen", "Ann", "Bob"]


def test_rooms_lie_as_they_were_said_to():
    world = World([Fact("attic", "north", "cave"), Fact("tower", "east", "cave")])
    north, of = FORMS["qa4"]
    assert north.find(world, "north", "cave") == "attic" and north.find(world, "west", "tower") == "cave"
    assert of.find(world, "attic", "north") == "cave" and of.find(world, "cave", "south") == "attic"


def test_only_the_gold_may_be_left_in_the_first_sentence():
    task, query = Babilong(), Query("\nIn which room is Mary now?", "", ("kitchen",))
    for answer in (" kitchen", "The Kitchen. Not the garden.", "Mary is in the kitchen\nJohn: office"):
        assert task.score(answer, query) == 1
    for answer in (" garden", "kitchen or garden", "kitchenette", "I know. kitchen"):
        assert task.score(answer, query) == 0
    asked = Query("\nWho last gave the apple to Fred?", "", ("Bill",))
    assert QUESTIONS["babilong_qa5"].score("Bill gave Fred the apple.", asked) == 1
    assert QUESTIONS["babilong_qa5"].score("Bill gave Mary the apple.", asked) == 0


@pytest.mark.parametrize("kind, chances", dict(qa1={6}, qa2={6}, qa3={5}, qa4={5}, qa5={3, 4}).items())
def test_labels_of_the_question_are_no_candidates(kind, chances):
    task = QUESTIONS[f"babilong_{kind}"]
    found = {len(query.candidates) for _, query in drawn(task) if task.chance(query) == 1 / len(query.candidates)}
    assert found == chances
    for _, query in drawn(task):
        assert not set(query.candidates) & set(re.findall(r"\w+", query.question))


def test_the_background_names_no_room():
    for sample, _ in drawn(QUESTIONS["babilong_qa4"], size=400):
        assert len(re.findall("kitchen|garden|office|hallway|bathroom|bedroom", sample.context)) == 4


@pytest.mark.parametrize("task", (Graphwalks(), Graphwalks(depth=1), Graphwalks(depth=4, degree=2)), ids=str)
def test_nodes_at_a_depth_are_those_of_powers_of_the_matrix(task):
    for sample, query in drawn(task):
        edges = re.findall(r"(\w+) -> (\w+)", sample.context)
        assert len(set(edges)) == len(edges) and all(one != other for one, other in edges)
        names = sorted({node for edge in edges for node in edge})
        matrix = np.zeros((len(names), len(names)), bool)
        for one, other in edges:
            matrix[names.index(one), names.index(other)] = True
        start = re.findall(r"from node (\w+)", query.question)[0]
        layer = met = np.array(names) == start
        for _ in range(task.depth):
            layer = layer @ matrix & ~met
            met = met | layer
        assert set(query.gold) == set(np.array(names)[layer]) and len(set(query.gold)) == len(query.gold)
        assert task.score(", ".join(names), query) < 1 and len(", ".join(query.gold)) <= task.budget


def test_parents_are_all_found_and_half_of_them_score_two_thirds():
    for sample, query in drawn(Graphwalks("parents")):
        node = re.findall(r"to node (\w+)", query.question)[0]
        assert sorted(query.gold) == sorted(re.findall(rf"(\w+) -> {node}\n", sample.context + "\n"))
    query = Query("", "", ("0123456789", "abcdef0123"))
    assert Graphwalks("parents").score(" 0123456789", query) == pytest.approx(2 / 3)


@pytest.mark.parametrize("ops", (1, 8, 60))
def test_variables_of_a_value_are_those_that_python_finds(ops):
    for sample, query in drawn(Assignments(ops)):
        waiting, known = re.findall(r"(V\d+) = (.*)\.\n", sample.context + "\n"), {}
        assert len({name for name, _ in waiting}) == len(waiting)
        for _ in range(ops):
            for name, value in waiting:
                if name not in known and set(re.findall(r"V\d+", value)) <= set(known):
                    known[name] = eval(value, {}, known)
        assert len(known) == ops
        asked = scores.first_integer(query.question.replace(":", ""))
        assert set(query.gold) == {name for name, value in known.items() if value == asked}
        assert Assignments(ops).score(", ".join(known), query) == (len(query.gold) == ops)


def test_expressions_are_of_the_published_shape_and_python_agrees():
    counts, names = collections.Counter(), {"MIN": min, "MAX": max}
    median = lambda *digits: math.floor(statistics.median(digits))
    names |= {"MED": median, "SM": lambda *digits: sum(digits) % 10}
    for sample, query in drawn(QUESTIONS["listops"], 300, 20):
        text = sample.context[len(listops.TASK) :]
        python = re.sub(r"\[(\w+) ", r"\1(", text).replace("]", ")").replace(" ", ", ")
        assert eval(python, names) == int(query.gold[0])
        depths = np.cumsum([(c == "[") - (c == "]") for c in text])
        assert depths.max() <= 10 and len(re.findall(r"\[", text)) >= 20
        counts[query.gold[0]] += 1
    assert len(counts) == 10 and max(counts.values()) / 300 < 0.1 + 4 * (0.1 * 0.9 / 300) ** 0.5


def test_arguments_have_the_value():
    rng = np.random.default_rng(0)
    for operation in listops.OPERATIONS:
        for value in list(range(10)) * 20:
            digits = listops.arguments(rng, operation, value)
            assert 2 <= len(digits) <= 10 and set(digits) <= set(range(10))
            assert listops.evaluated(operation, digits) == value


def test_an_expression_that_is_full_says_so():
    with pytest.raises(ValueError, match="No expression of depth 2 has 100 operations"):
        listops.ListOps(depth=2).sample(np.random.default_rng(0), 100)


def test_steps_before_the_first_error_count():
    task = paths.PathTraversal(4)
    for sample, query in drawn(task):
        assert len(query.gold) == 4 and task.score("\n".join(query.gold), query) == 1
        wrong = [*query.gold[:2], "Here to There by bus", query.gold[3]]
        assert task.score("\n".join(wrong), query) == 0.5
        assert task.score("So far. The journey is: " + "; ".join(query.gold), query) == 1
        left = re.findall(r"From (\w+) one", sample.context)
        assert len(set(left)) == len(left)


def test_names_of_cities_do_not_repeat():
    names = [name for name, _ in zip(paths.cities(np.random.default_rng(0)), range(20_000), strict=False)]
    assert len(set(names)) == len(names)


def test_any_solution_counts_and_nothing_else():
    task, query = Countdown(), Query("", "", ("8 * 3 = 24", "24 + 5 = 29", "29 - 5 = 24"))
    for answer in ("8 * 3 = 24\n5 / 5 = 1\n24 * 1 = 24", "5-5=0\nThe equations are: 5 / 5 = 1; 8 * 1 = 8; 8*3=24"):
        assert task.score(answer, query) == 1
    wrong = (
        "8 * 3 = 24",
        "8 * 3 = 24\n24 + 5 = 29",
        "8 * 3 = 24\n5 - 5 = 0\n24 + 0 = 24",
        "3 * 8 = 24\n5 / 5 = 1\n24 * 1 = 24",
        "8 * 3 = 24\n5 / 5 = 1\n24 + 1 = 25",
        "8 + 3 = 24\n5 / 5 = 1\n24 * 1 = 24",
        "24 * 1 = 24\n24 * 1 = 24\n24 * 1 = 24",
    )
    assert [task.score(answer, query) for answer in wrong] == [0] * len(wrong)
    assert solved([1, 1], 5) is None and solved([7], 7) == []


def test_a_list_is_what_python_makes_of_it():
    for sample, _ in drawn(LatentList(12)):
        scope: dict = {}
        exec(sample.context.partition("\n")[2], scope)
        for query in sample.queries:
            view = re.findall(r"value of (.*) in the end", query.question)[0]
            assert str(eval(view, scope)) == query.gold[0] and len(query.candidates) == 8
            assert [LatentList().score(" " + one, query) for one in query.candidates] == [1] + 7 * [0]
