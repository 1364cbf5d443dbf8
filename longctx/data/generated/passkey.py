"""Passkey retrieval: a number hidden in filler, asked for at the end (Mohtashami & Jaggi 2023; Chen et al. 2023)."""

import functools
from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Generated, log_uniform
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
    return TASK + _whole(filled[:at]) + needle + _whole(filled[at:]) + QUESTION, answer


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

    def lengths(self, tokenizer: Tokenizer) -> tuple[int, int | None]:
        """(fewest, most) tokens of a document: a needle and a question."""
        return int(len(NEEDLE + QUESTION) / _bytes_per_token(tokenizer)), None

    def shortest(self, tokenizer: Tokenizer) -> int:
        """The tokens of the shortest prompt."""
        return shortest(tokenizer)

    def document(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, documents: Sequence[Document]
    ) -> np.ndarray:
        """See Generated.document."""
        size = int(max(len(NEEDLE + QUESTION), tokens * _bytes_per_token(tokenizer)))
        filler = _excerpt(rng, documents, size) if rng.random() < 0.5 else GRASS * (size // len(GRASS) + 1)
        return tokenizer.encode(_asked_often(rng, size, filler.encode()).encode())[:tokens]


@functools.lru_cache(maxsize=8)
def _bytes_per_token(tokenizer: Tokenizer) -> float:
    sample = GRASS.encode() * 40
    return len(sample) / len(tokenizer.encode(sample))


def _asked_often(rng: np.random.Generator, size: int, filler: bytes) -> str:
    """A needle, then the question or its last words with the answer, time and again; `size` bytes with the filler."""
    number = int(rng.integers(1, LARGEST + 1))
    text = TASK.encode() if size > 2 * len(TASK + NEEDLE) and rng.random() < 0.5 else b""
    statement = NEEDLE.format(number=number).encode()
    one_more = len(f"{QUESTION} {number}")
    room = size - len(text + statement)
    gap = int(rng.random() * (room - one_more + 1))
    while True:
        text += filler[len(text) : len(text) + gap] + statement
        room = size - len(text)
        if room < one_more:
            return _whole(text)
        statement = f"{QUESTION if rng.random() < 0.5 else REMINDER} {number}".encode()
        room -= len(statement)
        gap = min(room, log_uniform(rng, 1, size)) if rng.random() < 0.5 else 0
        if room - gap < one_more:
            gap = room  # the last answer ends the text


def _excerpt(rng: np.random.Generator, documents: Sequence[Document], size: int) -> str:
    """At least `size` bytes out of random places of random documents."""
    parts, have = [], 0
    while have < size:
        text = documents[int(rng.integers(len(documents)))].text
        start = int(rng.integers(len(text)))
        parts.append(text[start : start + size - have])
        have += len(parts[-1])
    return _whole(b" ".join(parts))


def _whole(text: bytes) -> str:
    """Drops what is not UTF-8, such as the halves of a character that a cut left."""
    return text.decode("utf-8", "ignore")
