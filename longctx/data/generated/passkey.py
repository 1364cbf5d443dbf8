"""Passkey retrieval: a number hidden in filler, asked for at the end (Mohtashami & Jaggi 2023; Chen et al. 2023)."""

import functools
import re
from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Generated, Made, encoded, log_uniform
from longctx.data.generated.writing import Writer, Written, excerpt, whole
from longctx.data.tokenizers import Tokenizer

TASK = "There is an important info hidden inside a lot of irrelevant text. Find it: you will be asked for it.\n"
GRASS = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
NEEDLE = "\nThe pass key is {number}. Remember it. {number} is the pass key.\n"
QUESTION = "\nWhat is the pass key? The pass key is"
REMINDER = "\nThe pass key is"
LARGEST = 50_000


def prompt(rng: np.random.Generator, length_bytes: int, depth: float, filler: str = GRASS) -> tuple[str, str]:
    """(text before the answer, answer) of one task: together length_bytes long in UTF-8, or the shortest possible.

    The needle stands after `depth` (0 to 1) of the filler, which is repeated as often as needed. (A filler beyond ASCII
    may leave the text a few bytes short: no character is cut.) The answer starts with the space after "is".
    """
    number = int(rng.integers(1, LARGEST + 1))
    needle, answer = NEEDLE.format(number=number), f" {number}"
    room = max(0, length_bytes - len(TASK) - len(needle) - len(QUESTION) - len(answer))
    filler_bytes = filler.encode()
    filled = (filler_bytes * (room // len(filler_bytes) + 1))[:room]
    at = round(depth * room)
    return TASK + whole(filled[:at]) + needle + whole(filled[at:]) + QUESTION, answer


def shortest(tokenizer: Tokenizer) -> int:
    """An upper bound of the tokens in a prompt and answer without filler, and the start token."""
    bare = TASK + NEEDLE.format(number=LARGEST) + QUESTION + f" {LARGEST}"
    return len(tokenizer.encode(bare.encode())) + 8 + 1  # another number may take a few tokens more


class Passkey(Generated):
    """Passkey tasks that ask many times.

    A prompt has five digits to learn from among thousands of other tokens: too few for a short run. Here the number is
    asked for again and again, half of the time at once and else after a log-uniform gap: most answers repeat one
    nearby, which is learnt first, and some are far from it. Half of the fillers are real text, cut out of the
    documents of the run.
    """

    smallest = len(NEEDLE + QUESTION)

    def lengths(self, tokenizer: Tokenizer) -> tuple[int, int | None]:
        """(fewest, most) tokens of a document: a needle and a question."""
        return int(len(NEEDLE + QUESTION) / _bytes_per_token(tokenizer)), None

    def shortest(self, tokenizer: Tokenizer) -> int:
        """The tokens of the shortest prompt."""
        return shortest(tokenizer)

    def document(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, documents: Sequence[Document]
    ) -> Made:
        """See Generated.document; the text may be cut anywhere."""
        size = int(max(self.smallest, tokens * _bytes_per_token(tokenizer)))
        return encoded(self.write(rng, size, documents), tokenizer).cut(tokens)

    def write(self, rng: np.random.Generator, size: int, documents: Sequence[Document]) -> Written:
        """See Generated.write."""
        filler = excerpt(rng, documents, size) if rng.random() < 0.5 else GRASS * (size // len(GRASS) + 1)
        return _asked_often(rng, size, filler.encode())

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the number that is to be remembered."""
        return " " + re.findall(r"The pass key is (\d+)\. Remember it", before)[0]


@functools.lru_cache(maxsize=8)
def _bytes_per_token(tokenizer: Tokenizer) -> float:
    sample = GRASS.encode() * 40
    return len(sample) / len(tokenizer.encode(sample))


def _asked_often(rng: np.random.Generator, size: int, filler: bytes) -> Written:
    """A needle, then the question or its last words with the answer, time and again; `size` bytes with the filler."""
    number = int(rng.integers(1, LARGEST + 1))
    writer, used = Writer(size), 0  # used: of the size, with the halves of characters that are not written
    if size > 2 * len(TASK + NEEDLE) and rng.random() < 0.5:
        writer.say(TASK)
        used = len(TASK)
    statement, answer = NEEDLE.format(number=number), ""
    one_more = len(f"{QUESTION} {number}")
    room = size - used - len(statement)
    gap = int(rng.random() * (room - one_more + 1))
    while True:
        writer.say(whole(filler[used : used + gap]) + statement)
        if answer:
            writer.answer(answer)
        used += gap + len(statement + answer)
        room = size - used
        if room < one_more:
            return writer.written()
        statement, answer = QUESTION if rng.random() < 0.5 else REMINDER, f" {number}"
        room -= len(statement + answer)
        gap = min(room, log_uniform(rng, 1, size)) if rng.random() < 0.5 else 0
        if room - gap < one_more:
            gap = room  # the last answer ends the text
