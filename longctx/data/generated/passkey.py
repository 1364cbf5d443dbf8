"""Passkey retrieval: a number hidden in filler, asked for at the end (Mohtashami & Jaggi 2023; Chen et al. 2023)."""

from collections.abc import Sequence

import numpy as np

from longctx.data.generated.task import Generated
from longctx.data.sources import Document
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
    nearby, which is learnt first, and some are far from it. Lengths are log-uniform up to the longest row; every second
    filler is real text, cut out of the documents of the run.
    """

    def shortest(self, tokenizer: Tokenizer) -> int:
        """The tokens of the shortest prompt."""
        return shortest(tokenizer)

    def training_documents(
        self, rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, longest: int, documents: Sequence[Document]
    ) -> list[np.ndarray]:
        """See Generated.training_documents."""
        if longest < (low := shortest(tokenizer)):
            raise ValueError(f"longest {longest} is less than the {low} tokens of the shortest task.")
        sample = GRASS.encode() * 40
        bytes_per_token = len(sample) / len(tokenizer.encode(sample))
        made, total = [], 0
        while total < tokens:
            size = log_uniform(rng, len(NEEDLE + QUESTION), longest * bytes_per_token)
            filler = _excerpt(rng, documents, size) if len(made) % 2 else GRASS * (size // len(GRASS) + 1)
            ids = tokenizer.encode(_asked_often(rng, size, filler.encode()).encode())[: longest - 1]  # 1: start token
            made.append(ids)
            total += len(ids) + 2  # its start and its end
        return made


def log_uniform(rng: np.random.Generator, low: float, high: float) -> int:
    """An integer of at least `low` and below `high`, as often in one octave as in another."""
    return int(low * (high / low) ** rng.random())


def _asked_often(rng: np.random.Generator, size: int, filler: bytes) -> str:
    """A needle, then the question or its last words with the answer, time and again; `size` bytes with the filler."""
    number = int(rng.integers(1, LARGEST + 1))
    text = TASK.encode() if size > 2 * len(TASK + NEEDLE) and rng.random() < 0.5 else b""
    statement = NEEDLE.format(number=number).encode()
    gap = int(rng.random() * (size - len(text + statement) - len(QUESTION) - 6))
    while gap >= 0:
        text += filler[len(text) : len(text) + gap] + statement
        statement = f"{QUESTION if rng.random() < 0.5 else REMINDER} {number}".encode()
        gap = log_uniform(rng, 1, size) if rng.random() < 0.5 else 0
        gap = min(gap, size - len(text + statement))  # the last answer ends the text
    return _whole(text)


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
