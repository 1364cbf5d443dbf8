"""Passages that are repeated: behind a counter, or to be counted.

Text that comes again is what a model learns to look back from; the counters and the question how often it came make the
repetitions tell something new (compare Xue et al. 2023, on repeating tokens in a token crisis).
"""

from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Series, log_uniform
from longctx.data.generated.writing import Writer, passage

COUNTED, ASKED, QUESTION = "<<counted>>\n", "<<repeated>>\n", "How often?"
MOST = 99_999  # repetitions
COUNTER = len("99999. \n")
LEAST, LONGEST = 16, 400  # bytes of a passage


class Repetitions(Series):
    """A line out of the run's text, again and again: numbered half of the time, and else with how often it came."""

    smallest = len(ASKED + QUESTION) + 2 * (LEAST + COUNTER) + 8

    def problem(self, rng: np.random.Generator, writer: Writer, documents: Sequence[Document]) -> None:
        """See Series.problem."""
        room = writer.room - len(ASKED + QUESTION) - 8
        size = log_uniform(rng, LEAST, min(LONGEST, room // 2 - COUNTER) + 1)
        line = " ".join(passage(rng, documents, size).split()) or "-"
        times = log_uniform(rng, 2, min(MOST, room // (len(line.encode()) + COUNTER)) + 1)
        if rng.random() < 0.5:
            writer.say(ASKED + f"{line}\n" * times + QUESTION)
            writer.answer(f" {times}\n\n")
            return
        writer.say(COUNTED + f"1. {line}\n")
        for number in range(2, times + 1):
            writer.answer(f"{number}. {line}\n")

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the next number and the line again, or the number of lines."""
        if before.endswith(QUESTION):
            return f" {before.rpartition(ASKED)[2].count(chr(10))}\n\n"
        number, _, line = before.rstrip("\n").rpartition("\n")[2].partition(". ")
        return f"{int(number) + 1}. {line}\n"
