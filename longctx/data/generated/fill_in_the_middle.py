"""The middle of a text that is told its prefix and its suffix (Bavarian et al. 2022), in the run's own text.

The markers are plain text that no tokenizer has tokens for, with any tokenizer: a task's document is text like the
others, and a run's text that happens to spell a special token stays text. To teach a model its own FIM tokens, write
them into the data.
"""

from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Series
from longctx.data.generated.writing import Writer, passage

PREFIX, SUFFIX, MIDDLE, END = "<<prefix>>", "<<suffix>>", "<<middle>>", "<<end>>\n"
MARKERS = len(PREFIX + SUFFIX + MIDDLE + END)
EDGE = 24  # characters on each side of the middle, at least: fewer would not say where it begins and ends


class FillInTheMiddle(Series):
    """Parts of documents, cut at two uniform places into prefix, suffix and middle, written in this order (PSM) half of
    the time, and else the suffix first (SPM)."""

    smallest = MARKERS + 4 * (2 * EDGE + 8)  # a character has up to four bytes

    def problem(self, rng: np.random.Generator, writer: Writer, documents: Sequence[Document]) -> None:
        """See Series.problem."""
        text = passage(rng, documents, writer.room - MARKERS)
        edge = min(EDGE, len(text) // 3)
        first, last = sorted(rng.integers(edge, len(text) - edge + 1, size=2).tolist())
        parts = [PREFIX + text[:first], SUFFIX + text[last:]]
        writer.say("".join(parts if rng.random() < 0.5 else parts[::-1]) + MIDDLE)
        writer.answer(text[first:last] + END)

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: what stands between the prefix and the suffix in the documents."""
        asked = before.rpartition(END)[2].removesuffix(MIDDLE)
        if asked.startswith(PREFIX):
            prefix, _, suffix = asked.removeprefix(PREFIX).partition(SUFFIX)
        else:
            suffix, _, prefix = asked.removeprefix(SUFFIX).partition(PREFIX)
        for text in (document.text.decode(errors="ignore") for document in documents):
            start = text.find(prefix) + len(prefix)
            if start >= len(prefix) and (end := text.find(suffix, start)) >= 0:
                return text[start:end] + END
        raise ValueError("No document has both the prefix and the suffix.")
