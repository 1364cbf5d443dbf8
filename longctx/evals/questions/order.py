"""The order in which segments of a text came."""

import dataclasses
import itertools
import re

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Guessed, Query, Sample

TASK = "Read the text below. The order of its segments will be asked for.\n"
SEGMENTS = "\nSegments of the text:\n{}\n"
FIRST = "Which of these segments comes first in the text?"
ALL = "In which order do these segments come in the text?"
LABELS = "ABCDEF"
_SEGMENT = re.compile(r"^([A-F]): (.*)$", re.MULTILINE)
_LABEL = re.compile(r"\b[A-F]\b")


@dataclasses.dataclass(frozen=True)
class Order(Guessed):
    """The first of two segments is asked for, in both orders of the two; of more segments, the order.

    Attributes:
      segments: how many.
      sentences: of a segment, 8 words each.
    """

    segments: int = 2
    sentences: int = 3
    budget: int = 32
    smallest: int = 8
    source: str = (
        "SORT (arXiv 2410.08133), two segments of about 20 words, in generated prose in place of books; with four "
        "segments, the permutation that Ada-LEval's TSort asks for (arXiv 2404.06480), here of segments that the text "
        "holds"
    )
    diffusion: str = "low"
    scope: str = "low"

    def __post_init__(self):
        if not 2 <= self.segments <= len(LABELS) or self.sentences < 1:
            raise ValueError(f"{self} is not of 2 to {len(LABELS)} segments of one sentence or more.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"the order of {self.segments} segments of {self.sentences} sentences"

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: sentences before, between and after the segments."""
        own = words.take(words.sentences(rng), self.segments * self.sentences)
        segments = [" ".join(own[i : i + self.sentences]) for i in range(0, len(own), self.sentences)]
        depths = sorted(rng.random(self.segments).tolist())
        shown = rng.permutation(self.segments).tolist()
        hay = np.random.default_rng(rng.integers(1 << 62))
        text = words.placed(words.take(words.sentences(hay, own), size), zip(depths, segments, strict=True))
        orders = (shown, shown[::-1]) if self.segments == 2 else (shown,)
        return Sample(TASK + " ".join(text), tuple(self._query(segments, order, depths[0]) for order in orders))

    def _query(self, segments: list[str], shown: list[int], depth: float) -> Query:
        """shown[i]: the segment that has label i."""
        listed = SEGMENTS.format("\n".join(f"{LABELS[i]}: {segments[at]}" for i, at in enumerate(shown)))
        labels = [LABELS[shown.index(at)] for at in range(len(segments))]
        if len(segments) == 2:
            return Query(listed + FIRST, " Segment", (labels[0],), tuple(labels), depth)
        orders = tuple(", ".join(order) for order in itertools.permutations(labels))  # the first is as given
        return Query(listed + ALL, " The order is", orders[:1], orders, depth)

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition(SEGMENTS.partition("{")[0])
        labels = [
            label for _, label in sorted((context.index(text), label) for label, text in _SEGMENT.findall(question))
        ]
        return labels[0] if FIRST in question else ", ".join(labels)

    def score(self, answer: str, query: Query) -> float:
        """See Questions: 1 where the labels that the first line begins with are the right ones, else 0."""
        gold = _LABEL.findall(query.gold[0])
        return float(_LABEL.findall(scores.first_line(answer))[: len(gold)] == gold)
