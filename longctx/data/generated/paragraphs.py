"""Paragraphs of the run's own text: put back into order, and found by a keyword or by their place.

Three of the tasks that Qwen2.5-1M was trained on (Yang et al. 2025): paragraph reordering, keyword-based and
position-based retrieval.
"""

import collections
import re
from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Series
from longctx.data.generated.writing import Writer, passage, pieces

LEAST, SHARE = 60, 16  # bytes that a paragraph may have in any case, and the part of the room that it may take
SHORTEST = 16  # bytes of a paragraph: shorter ones stand in many places, or are what a cut left

SHUFFLED, ORDER = "Paragraphs of a text, out of order:", "\n\nTheir order:"
LABEL = len("[999] \n\n 999")
MOST = 999  # paragraphs, so that labels have no more digits

TEXT, OVER = "<<text>>\n\n", "<<end of text>>\n\n"
BY_PLACE, BY_WORD = "Paragraph {}:\n", "The paragraph with the word {}:\n"
QUESTION = 80  # bytes of a question, at most
WORD = re.compile(r"\w{4,12}")


class Paragraphs(Series):
    """Shuffled paragraphs of a document, each behind a number, then the numbers in the original order."""

    smallest = 400

    def problem(self, rng: np.random.Generator, writer: Writer, documents: Sequence[Document]) -> None:
        """See Series.problem."""
        found = _some(rng, documents, writer.room - len(SHUFFLED + ORDER) - 2, LABEL)[:MOST]
        shown = rng.permutation(len(found))
        writer.say(SHUFFLED + "".join([f"\n\n[{i + 1}] {found[which]}" for i, which in enumerate(shown)]) + ORDER)
        writer.answer("".join([f" {label + 1}" for label in np.argsort(shown)]) + "\n\n")

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the order in which the paragraphs stand in the document that has all of them."""
        rest, parts = before.rpartition(SHUFFLED)[2].removesuffix(ORDER), []
        while rest:
            rest = rest.removeprefix(f"\n\n[{len(parts) + 1}] ")
            part, mark, after = rest.partition(f"\n\n[{len(parts) + 2}] ")
            parts.append(" ".join(part.split()))
            rest = mark + after
        for document in documents:
            text = " ".join(document.text.decode(errors="ignore").split())
            places = [text.find(part) for part in parts]
            if min(places) >= 0:
                return "".join(f" {i + 1}" for i in np.argsort(places)) + "\n\n"
        raise ValueError("No document has all of the paragraphs.")


class Keywords(Series):
    """A text, then the whole of some of its paragraphs, asked for by their number or by a word of no other one."""

    smallest = 400

    def problem(self, rng: np.random.Generator, writer: Writer, documents: Sequence[Document]) -> None:
        """See Series.problem."""
        longest = max(LEAST, writer.room // SHARE)
        room = writer.room - len(TEXT + OVER) - QUESTION - longest
        found = _some(rng, documents, int(room * rng.uniform(0.5, 1)), 2, longest)
        words = [set(WORD.findall(part)) for part in found]
        often = collections.Counter(word for some in words for word in some)
        writer.say(TEXT + "".join([part + "\n\n" for part in found]) + OVER)
        for i in rng.permutation(len(found)).tolist():
            own = sorted(word for word in words[i] if often[word] == 1)
            word = own[int(rng.integers(len(own)))] if own and rng.random() < 0.5 else None
            question = BY_WORD.format(word) if word else BY_PLACE.format(i + 1)
            if len((question + found[i]).encode()) + 2 > writer.room:
                break
            writer.say(question)
            writer.answer(found[i] + "\n\n")

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the paragraph with that number or word."""
        text, _, questions = before.rpartition(TEXT)[2].partition(OVER)
        parts, question = text.split("\n\n")[:-1], questions.rpartition("\n\n")[2]
        asked = question.rstrip(":\n").split()[-1]
        if question == BY_PLACE.format(asked):
            return parts[int(asked) - 1] + "\n\n"
        return next(part for part in parts if asked in WORD.findall(part)) + "\n\n"


def _some(
    rng: np.random.Generator, documents: Sequence[Document], room: int, each: int, longest: int | None = None
) -> list[str]:
    """The first paragraphs of a passage that have `room`, with `each` bytes more for every one of them."""
    found, longest = [], longest or max(LEAST, room // SHARE)
    for part in pieces(passage(rng, documents, room), longest):
        size = len(part.encode())
        if size + each > room:
            break
        if size >= SHORTEST:
            room -= size + each
            found.append(part)
    return found or ["-"]
