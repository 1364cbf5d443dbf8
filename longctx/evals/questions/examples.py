"""Examples before a question: others of the same kind, with their answers (few-shot).

As many as the context has to ask are recycled from it, so that they cost their questions and answers alone (arXiv
2406.13632); the rest are the smallest samples of the task, before the context. Answers that were shown are no
candidates any more, and half of the usual number are left: so a guess scores what `chance` says.
"""

import dataclasses

import numpy as np

from longctx.evals.questions.question import CHOICES, Query, Questions, Sample

EXAMPLE = "=== Example {number} ===\n"
TASK = "=== Task ===\n"
AGAIN = "\n\n=== About the text above, with answers ==="
QUESTION = "\n\n=== Question ==="


def with_examples(task: Questions, shots: int) -> Questions:
    """The task with so many examples before each question; with 0 the task as it is."""
    return WithExamples(task, shots) if shots else task


@dataclasses.dataclass(frozen=True)
class WithExamples:
    """A task whose samples have examples in their contexts and questions; what is asked is the same as without.

    Attributes:
      task: that is asked.
      shots: examples before each question.
    """

    task: Questions
    shots: int = 1

    def __post_init__(self):
        if self.shots < 1:
            raise ValueError(f"{self.shots} examples are not at least 1.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"{self.task.what}, after {self.shots} examples"

    @property
    def budget(self) -> int:
        """See Questions."""
        return self.task.budget

    @property
    def smallest(self) -> int:
        """See Questions."""
        return self.task.smallest

    @property
    def source(self) -> str:
        """See Questions."""
        return f"{self.task.source or self.task.what}, with examples, from the same context where it has any"

    @property
    def diffusion(self) -> str:
        """See Questions."""
        return self.task.diffusion

    @property
    def scope(self) -> str:
        """See Questions."""
        return self.task.scope

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: of the haystack of the question, not of those of the examples."""
        sample = self.task.sample(rng, size)
        others = [_others(sample, query)[: self.shots] for query in sample.queries]
        recycled = min(map(len, others))
        before = ""
        for i, own in enumerate(rng.spawn(self.shots - recycled)):
            example = self.task.sample(own, self.task.smallest)
            query = example.queries[i % len(example.queries)]
            before += f"{EXAMPLE.format(number=i + 1)}{self._answered(example, query)}\n\n"
        asked = zip(sample.queries, others, strict=True)
        queries = tuple(self._after(sample, query, shown[:recycled]) for query, shown in asked)
        return Sample((before and before + TASK) + sample.context, queries)

    def _after(self, sample: Sample, query: Query, others: list[Query]) -> Query:
        """The query with others before its question."""
        if not others:
            return query
        told = "".join(self._answered(sample, other)[len(sample.context) :] for other in others)
        left = [one for one in query.candidates if one not in map(_answer, others)]
        return query._replace(question=f"{AGAIN}{told}{QUESTION}{query.question}", candidates=tuple(left))

    def _answered(self, sample: Sample, query: Query) -> str:
        prompt = sample.prompt(query)
        return f"{prompt} {self.task.solve(prompt)}"

    def solve(self, prompt: str) -> str:
        """See Questions: the examples are taken out of the prompt first."""
        context, recycled, told = prompt.rpartition(TASK)[2].partition(AGAIN)
        return self.task.solve(context + (told.rpartition(QUESTION)[2] if recycled else ""))

    def score(self, answer: str, query: Query) -> float:
        """See Questions."""
        return self.task.score(answer, query)

    def chance(self, query: Query) -> float:
        """See Questions."""
        return self.task.chance(query)


def _others(sample: Sample, query: Query) -> list[Query]:
    """The queries to show before one that is asked: at first those whose answers are none of its candidates."""
    others = [other for other in sample.shown if other != query]
    free = [other for other in others if _answer(other) not in query.candidates]
    taken = [other for other in others if _answer(other) in query.candidates]
    return free + taken[: max(len(query.candidates) - CHOICES // 2, 0)]


def _answer(query: Query) -> str:
    """The gold as a candidate would be written."""
    return ", ".join(query.gold)
