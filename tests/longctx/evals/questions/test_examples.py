"""Examples before a question: they are right, change nothing that is asked, and never confuse a solver."""

import numpy as np
import pytest

from longctx.evals.questions import examples, fit
from longctx.evals.questions.api import QUESTIONS
from longctx.evals.questions.examples import WithExamples, with_examples
from longctx.evals.questions.question import CHOICES

EACH = pytest.mark.parametrize("name", QUESTIONS)
RECYCLING = ("niah_multikey_1", "json_kv", "mqar", "joint_recall", "lift", "bios_multi_2", "qa_facts_2", "vt_chains")


@EACH
def test_the_question_and_its_answer_are_those_without_examples(name):
    bare = QUESTIONS[name]
    for index in range(8):
        task, size = with_examples(bare, 1 + index % 5), bare.smallest * (1 + index % 3)
        sample, before = (fit.drawn(one, name, 7, index, size) for one in (task, bare))
        for query, asked in zip(sample.queries, before.queries, strict=True):
            prompt = sample.prompt(query)
            assert prompt.endswith(asked.question + asked.prefix) and before.context in prompt
            assert query._replace(question=asked.question, candidates=asked.candidates) == asked
            assert task.solve(prompt) == bare.solve(before.prompt(asked)) and task.score(task.solve(prompt), query) == 1
            left, told = set(query.candidates), prompt.partition(examples.AGAIN)[2].rpartition(examples.QUESTION)[0]
            assert left <= set(asked.candidates) and query.candidates[:1] == asked.candidates[:1]
            assert len(left) >= min(len(asked.candidates), CHOICES // 2)
            golds = [other.gold for other in before.shown if other.question + other.prefix in told]
            assert not left & {", ".join(gold) for gold in golds}
            assert len(golds) + sample.context.count("=== Example ") == 1 + index % 5


@EACH
def test_examples_depend_on_the_seed_and_not_on_the_size(name):
    task = with_examples(QUESTIONS[name], 3)
    small, large = (fit.drawn(task, name, 1, 0, times * task.smallest) for times in (1, 4))
    assert small == fit.drawn(task, name, 1, 0, task.smallest) and small.queries == large.queries
    before = lambda sample: sample.context.rpartition(examples.TASK)[0]
    assert before(small) == before(large) != before(fit.drawn(task, name, 2, 0, task.smallest)) or not before(small)


@pytest.mark.parametrize("name", RECYCLING)
def test_examples_are_recycled_from_the_context(name):
    bare = QUESTIONS[name]
    for index in range(10):
        plain = fit.drawn(bare, name, 3, index, bare.smallest)
        sample = fit.drawn(with_examples(bare, 1), name, 3, index, bare.smallest)
        assert sample.context == plain.context
        for query, asked in zip(sample.queries, plain.queries, strict=True):
            told = query.question.removeprefix(examples.AGAIN).removesuffix(examples.QUESTION + asked.question)
            shown = [example for example in plain.shown if example.question + example.prefix in told]
            assert shown and asked not in shown and told.startswith("\n")
            for example in shown:
                answer = told.partition(example.question + example.prefix)[2]
                assert bare.score(answer.partition(example.question[:10])[0], example) == 1
            assert not set(asked.gold) & set(told.replace(",", " ").split())


def test_the_rest_are_small_samples_of_their_own():
    bare = QUESTIONS["niah_multikey_1"]  # three keys that are not asked for
    sample = fit.drawn(with_examples(bare, 5), "niah_multikey_1", 0, 0, 30)
    assert sample.context.count("=== Example") == 2 and sample.queries[0].question.count("What are") == 4
    alone = fit.drawn(with_examples(QUESTIONS["cwe"], 3), "cwe", 0, 0, 30)
    assert alone.context.count("=== Example") == 3 and alone.context.count("numbered list") == 4


@pytest.mark.parametrize("name", ["niah_multikey_1", "cwe", "icl_200", "listops"])
def test_lengths_count_the_examples(name, byte_tokenizer):
    task = with_examples(QUESTIONS[name], 4)
    shortest = fit.drawn(task, name, 0, 0, task.smallest)
    length = len(shortest.prompt(shortest.queries[0])) + task.budget + 5_000
    found = fit.fitted(task, name, byte_tokenizer, length, 0, 0)
    assert found.tokens == 1 + len(found.sample.prompt(found.sample.queries[0])) <= length - task.budget
    larger = fit.drawn(task, name, 0, 0, found.size + 1)
    assert 1 + len(larger.prompt(larger.queries[0])) > length - task.budget


def test_no_examples_are_the_task_itself():
    task = QUESTIONS["sort"]
    assert with_examples(task, 0) is task and WithExamples(task).what.startswith(task.what)
    with pytest.raises(ValueError, match="-1 examples"):
        with_examples(task, -1)
    assert np.isclose(with_examples(task, 1).chance(fit.drawn(task, "sort", 0, 0, 9).queries[0]), 0.5)
