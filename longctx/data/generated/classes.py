"""Classification in context with many classes: a class is a pattern of four letters, and its label a made-up word.

Many-class in-context classification, as in LongICLBench (Li et al. 2024), with classes that no model knows before.
"""

from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Generated, log_uniform
from longctx.data.generated.writing import Writer, Written, coined

TASK = "Each line has the label of its letters.\n"
LETTERS, DIGITS = 4, 2  # of a pattern; before it and after it
LINE = len("12abcd34: kabodi\n")


class Classes(Generated):
    """Lines of a pattern of letters between random digits, and its label; labels seen before are the answers."""

    smallest = len(TASK) + 3 * LINE

    def write(self, rng: np.random.Generator, size: int, documents: Sequence[Document]) -> Written:
        """See Generated.write; `documents` are not read."""
        lines = (size - len(TASK)) // LINE
        classes = log_uniform(rng, 2, min(1000, max(3, lines // 3 + 1)))
        labels = coined(rng, classes)
        patterns = [_letters(code) for code in rng.choice(26**LETTERS, classes, replace=False).tolist()]
        drawn = rng.integers(classes, size=lines).tolist()
        drawn[-1] = drawn[int(rng.integers(lines - 1))]
        writer, seen = Writer(size), set()
        writer.say(TASK)
        for which, digits in zip(drawn, rng.integers(0, 10, (lines, 2 * DIGITS)).tolist(), strict=True):
            around = "".join(map(str, digits))
            writer.say(f"{around[:DIGITS]}{patterns[which]}{around[DIGITS:]}:")
            (writer.answer if which in seen else writer.say)(f" {labels[which]}\n")
            seen.add(which)
        return writer.written()

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the label of an earlier line with the same letters."""
        *examples, asked = before.removeprefix(TASK).split("\n")
        letters = asked.strip(":0123456789")
        return next(
            " " + line.split()[1] + "\n" for line in examples if line.split(":")[0].strip("0123456789") == letters
        )


def _letters(code: int) -> str:
    return "".join(chr(ord("a") + code // 26**i % 26) for i in range(LETTERS))
