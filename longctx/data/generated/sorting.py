"""Numbers to be sorted, with a hint for each before the answer: the number that comes after it.

Task hinting (Dasgupta et al. 2023): the next larger number is an easier task, which helps the harder one.
"""

from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Series, log_uniform
from longctx.data.generated.writing import Writer

TASK, RESULT = "Sort {}\n", "Sorted: {}\n\n"
NUMBERS = 10_000  # from 0 on, so that none has more than four digits
BYTES = 2 * len("9999 ") + len("after 9999 comes nothing\n")  # of a number: in the task, the result and its hint
MOST = 4000


class Sorting(Series):
    """Lists of different numbers, what comes after each of them, in the order of the task, and the sorted list."""

    smallest = len(TASK + RESULT) + 2 * BYTES

    def problem(self, rng: np.random.Generator, writer: Writer, documents: Sequence[Document]) -> None:
        """See Series.problem; `documents` are not read."""
        most = min(MOST, (writer.room - len(TASK + RESULT)) // BYTES)
        numbers = rng.choice(NUMBERS, log_uniform(rng, 2, most + 1), replace=False).tolist()
        in_order = sorted(numbers)
        after = dict(zip(in_order, [*in_order[1:], "nothing"], strict=True))
        writer.say(TASK.format(" ".join(map(str, numbers))))
        hints = "".join([f"after {number} comes {after[number]}\n" for number in numbers])
        writer.answer(hints + RESULT.format(" ".join(map(str, in_order))))

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: for each number the least of the larger ones, then the list as Python sorts it."""
        numbers = [int(word) for word in before.rpartition("Sort ")[2].split()]
        larger = [[str(min(more))] if (more := [m for m in numbers if m > n]) else ["nothing"] for n in numbers]
        hints = "".join(f"after {n} comes {after}\n" for n, (after,) in zip(numbers, larger, strict=True))
        return hints + RESULT.format(" ".join(map(str, sorted(numbers))))
