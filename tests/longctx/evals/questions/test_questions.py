"""The laws of tasks that ask (questions/question.py), for all of them."""

import itertools

import numpy as np
import pytest

from longctx.errors import UserError
from longctx.evals.questions import fit
from longctx.evals.questions.api import QUESTIONS
from tests.helpers import nightly, slow

EACH = pytest.mark.parametrize("name", QUESTIONS)
SAMPLES = [40, *slow(500), *nightly(10_000)]


def samples(name: str, count: int):
    """(task, sample) of sizes from the smallest to some times that."""
    task = QUESTIONS[name]
    for index in range(count):
        yield task, fit.drawn(task, name, 7, index, task.smallest * (1 + index % 5) + index % 3)


@EACH
@pytest.mark.parametrize("count", SAMPLES)
def test_the_solver_is_always_right(name, count):
    for task, sample in samples(name, count):
        for query in sample.queries:
            assert task.score(task.solve(sample.prompt(query)), query) == 1.0, (query, sample.context[-2000:])


@EACH
def test_a_guess_scores_what_chance_says(name):
    """Where there are candidates: the right one is worth 1, and a random one its share, within three sigma."""
    scores, chances, rng = [], [], np.random.default_rng(3)
    for task, sample in samples(name, 120):
        for query in sample.queries:
            assert 0 <= task.chance(query) < 1 and query.gold and len(set(query.candidates)) == len(query.candidates)
            if query.candidates:
                assert task.score(" " + query.candidates[0], query) == 1.0
                guess = query.candidates[rng.integers(len(query.candidates))]
                scores.append(task.score(" " + guess, query))
                chances.append(task.chance(query))
    if scores:
        sigma = np.sqrt(np.mean(np.array(chances) * (1 - np.array(chances))) / len(scores))
        assert abs(np.mean(scores) - np.mean(chances)) <= 3 * sigma + 1e-9


@EACH
def test_samples_depend_on_the_seed_and_facts_not_on_the_size(name):
    task = QUESTIONS[name]
    for index in range(10):
        small, large = (fit.drawn(task, name, 1, index, times * task.smallest) for times in (1, 7))
        assert small == fit.drawn(task, name, 1, index, task.smallest)
        assert small.queries == large.queries and len(small.context) < len(large.context)
    first, second = (fit.drawn(task, name, seed, 0, task.smallest) for seed in (1, 2))
    assert first.context != second.context


@EACH
def test_no_answer_is_beyond_scoring(name):
    for task, sample in itertools.islice(samples(name, 3), 3):
        for query in sample.queries:
            for answer in ("", "\n", "0", "None of it.", "(" * 50, "9" * 5000, "1e400 -- \\d+ [", "\u00e9\u4e2d"):
                assert 0 <= task.score(answer, query) < 1


@EACH
def test_prompts_fill_a_length_and_no_more(name, byte_tokenizer):
    task = QUESTIONS[name]
    shortest = fit.drawn(task, name, 0, 0, task.smallest)
    length = 3 * max(len(shortest.prompt(query)) for query in shortest.queries) + task.budget
    found = fit.fitted(task, name, byte_tokenizer, length, 0, 0)
    assert found.tokens + task.budget <= length and found.tokens == 1 + max(
        len(found.sample.prompt(query).encode()) for query in found.sample.queries
    )
    larger = fit.drawn(task, name, 0, 0, found.size + 1)
    assert max(len(larger.prompt(query)) for query in larger.queries) + 1 + task.budget > length
    with pytest.raises(UserError, match=f"too few for {name}: its shortest prompt and answer take"):
        fit.fitted(task, name, byte_tokenizer, task.budget + 20, 0, 0)


@EACH
def test_the_task_says_what_it_is(name):
    task = QUESTIONS[name]
    assert task.what and task.budget > 0 and task.smallest > 0
    assert {task.diffusion, task.scope} <= {"low", "high"} and isinstance(task.source, str)
