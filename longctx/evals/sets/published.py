"""The interface of a set of texts and questions that people download.

To add one: a file here that makes a Set, and a line in SETS of api.py. The tests then hold it to the laws below, on a
tiny folder of its form.

- A set knows its folder by the names of files and the keys of their records, and no folder of another set.
- The gold answer scores 1 by the set's own score, and no answer is beyond scoring.
- A record that is not of the set's form is an error that names it; none is left out in silence.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from longctx.errors import UserError
from longctx.evals.questions.question import Query, Sample
from longctx.evals.sets.folder import Folder

Score = Callable[[str, Query], float]


class Set(NamedTuple):
    """A published set.

    Attributes:
      title: its name, as it is published.
      source: where it is described, and what differs here: prompts of our own, scores, parts that are left out.
      looks_for: a file that its folder is known by, and a key of it where the name says little; for an error.
      tasks: what of it is in a folder, each task under a name of its own; [] where the folder holds none of it.
    """

    title: str
    source: str
    looks_for: str
    tasks: Callable[[Folder], "Sequence[Texts | Grown]"]


def by_candidates(query: Query) -> float:
    """The chance of a guess among the candidates, of which the first alone is right; 0 where there are none."""
    return 1 / len(query.candidates) if query.candidates else 0.0


def always(query: Query) -> bool:
    """True: of several strings of a gold each is right."""
    return True


def single(query: Query) -> bool:
    """Whether the gold is one string: of several, all are asked for."""
    return len(query.gold) == 1


def never(query: Query) -> bool:
    """False: a right answer has parts in any order."""
    return False


@dataclasses.dataclass(frozen=True)
class Texts:
    """A task whose texts are records of files; asked like a task of longctx.evals.questions (Questions there).

    Attributes:
      name: in the set, such as "hotpotqa".
      rows: the records, dicts.
      read: a record -> the text and what is asked about it.
      score: the worth of an answer, from 0 to 1; see Questions.
      budget: the most tokens of an answer, as the set is published. A tokenizer of bytes needs more.
      whole: whether the first string of a gold is all of a right answer, and the one that a model would write; then it
        can be forced, and chosen among candidates.
      chance: the expected score of a guess among what there is to choose; 0 where the set does not say what that is.
    """

    name: str
    rows: Sequence[Any]
    read: Callable[[Any], Sample]
    score: Score
    budget: int
    whole: Callable[[Query], bool] = always
    chance: Callable[[Query], float] = by_candidates

    def sample(self, index: int) -> Sample:
        """The text of a record. Raises UserError for one that is not of the set's form."""
        try:
            sample = self.read(self.rows[index])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, SyntaxError) as error:
            said = f"{type(error).__name__}: {error}"
            raise UserError(
                f"eval.data: record {index} of {self.name} is not of the form of its set ({said})."
            ) from error
        if not sample.queries or not all(query.gold and all(query.gold) for query in sample.queries):
            raise UserError(f"eval.data: record {index} of {self.name} has no answer to compare with.")
        return sample


class Grown(Protocol):
    """A task whose texts are as long as is asked for: what longctx.evals.questions.fit needs of a task, and a name.

    Attributes: see Texts, and Questions for `smallest`.
    """

    @property
    def name(self) -> str: ...

    @property
    def budget(self) -> int: ...

    @property
    def smallest(self) -> int: ...

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions."""
        ...

    def score(self, answer: str, query: Query) -> float:
        """See Questions."""
        ...

    def chance(self, query: Query) -> float:
        """See Questions."""
        ...

    def whole(self, query: Query) -> bool:
        """See Texts."""
        ...


def one(context: str, question: str, prefix: str, gold: Sequence[str], candidates: Sequence[str] = ()) -> Sample:
    """A text with a single question; candidates in any order, those of the gold among them."""
    return Sample(context, (asked(question, prefix, gold, candidates),))


def asked(question: str, prefix: str, gold: Sequence[str], candidates: Sequence[str] = ()) -> Query:
    """A question; strings that are empty or repeated are left out of the gold, which comes first of the candidates."""
    right = tuple(dict.fromkeys(text.strip() for text in gold if text.strip()))
    among = (*right[:1], *(text for text in dict.fromkeys(candidates) if text not in right)) if candidates else ()
    return Query(question, prefix, right, among)


def listed(value) -> list[str]:
    """Answers that a file gives as one string or number, or as a list of such, or of lists of such.

    Raises ValueError for another kind of value, such as none.
    """
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in listed(each)]
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is no answer")
    return [str(value)]
