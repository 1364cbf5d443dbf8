"""The interface of a task that asks about a text: how it is made, what solves it, how an answer is scored.

To add one: a file here with a frozen dataclass that has the attributes and methods of Questions, and a line in
QUESTIONS of api.py. The tests then hold it to the laws below.

- A sample is a pure function of the seed and the size. The facts and questions are drawn before the haystack, so that
  they are the same at every size: results at two lengths differ by the length alone.
- `solve` reads nothing but the prompt, and scores 1.0 on every sample.
- A guess among `candidates` scores what `chance` says.
"""

from typing import NamedTuple, Protocol

import numpy as np

CHOICES = 8  # candidates of a query, where a task has no reason for another number


class Query(NamedTuple):
    """A question about a context.

    Attributes:
      question: what follows the context.
      prefix: how the answer begins, such as " The number is"; models that only continue text are given it. It ends
        with no space: the answer begins with one.
      gold: what a right answer holds, one or several strings, without spaces around them.
      candidates: answers to choose among, each like the whole of the gold; the first is right. () where there are none.
      depth: where in the haystack the first fact of the answer is, from 0 to 1; None where it is spread over all of it.
    """

    question: str
    prefix: str
    gold: tuple[str, ...]
    candidates: tuple[str, ...] = ()
    depth: float | None = None


class Sample(NamedTuple):
    """A context and what is asked about it.

    Attributes:
      context: what is read before a question.
      queries: what is asked, one by one.
      shown: queries of the same kind whose answers say nothing about those of others: with their answers they can be
        shown before one that is asked (examples.py). `solve` answers them alike for all sizes. () where there are none.
    """

    context: str
    queries: tuple[Query, ...]
    shown: tuple[Query, ...] = ()

    def prompt(self, query: Query) -> str:
        """The text up to the answer."""
        return self.context + query.question + query.prefix


class Questions(Protocol):
    """A task that asks.

    Attributes:
      what: the task in a few words, for tables.
      budget: the most tokens that an answer takes.
      smallest: the least size of a haystack.
      source: the published task that it follows, with what differs; "" for one of our own.
      diffusion, scope: how hard the facts are to find, and how much of the text an answer needs, "low" or "high" (Is It
        Really Long Context, arXiv 2407.00402).
    """

    @property
    def what(self) -> str: ...

    @property
    def budget(self) -> int: ...

    @property
    def smallest(self) -> int: ...

    @property
    def source(self) -> str: ...

    @property
    def diffusion(self) -> str: ...

    @property
    def scope(self) -> str: ...

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """A sample whose haystack has `size` parts (sentences, pairs, records, ...): tokens grow with the size."""
        ...

    def solve(self, prompt: str) -> str:
        """A right answer to the question that a prompt ends with."""
        ...

    def score(self, answer: str, query: Query) -> float:
        """The worth of an answer, from 0 to 1. Never raises, whatever the answer is."""
        ...

    def chance(self, query: Query) -> float:
        """The expected score of a guess: uniform among the candidates; where there are none, of the best answer that
        does not depend on the context."""
        ...


class Guessed:
    """The chance of tasks whose candidates are equally likely to a guess: each but the first is worth nothing.

    Without candidates it is 0: no answer that does not depend on the context scores.
    """

    def chance(self, query: Query) -> float:
        """See Questions."""
        return 1 / len(query.candidates) if query.candidates else 0.0
