"""Text of generated tasks as it is written: what is said and what is answered, and text that is taken from the run's.

Free of jax.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from longctx.data.document import Document

SYLLABLES = tuple(consonant + vowel for consonant in "bdfghklmnprstvz" for vowel in "aeiou")
TRIES = 8  # documents that are looked at for a long one
SHORT = 200  # bytes: shorter documents are joined to others


class Written(NamedTuple):
    """A document's text in UTF-8, and its answers: (first byte, byte after the last) of each, in order."""

    text: bytes
    answers: tuple[tuple[int, int], ...]


class Writer:
    """A document of at most `size` bytes as it is written, part after part."""

    def __init__(self, size: int):
        self.room = size  # bytes that are left
        self._parts: list[bytes] = []
        self._answers: list[tuple[int, int]] = []
        self._length = 0

    def say(self, text: str) -> None:
        """Adds text that the task does not ask for."""
        data = text.encode()
        self._parts.append(data)
        self._length += len(data)
        self.room -= len(data)

    def answer(self, text: str) -> None:
        """Adds text that follows from what was said before."""
        first = self._length
        self.say(text)
        self._answers.append((first, self._length))

    def written(self) -> Written:
        """All that was added."""
        return Written(b"".join(self._parts), tuple(self._answers))


def coined(rng: np.random.Generator, count: int, syllables: int = 3) -> list[str]:
    """`count` different made-up words of so many syllables, each of two letters."""
    numbers = rng.choice(len(SYLLABLES) ** syllables, count, replace=False)
    parts = numbers[:, None] // len(SYLLABLES) ** np.arange(syllables) % len(SYLLABLES)
    return ["".join([SYLLABLES[i] for i in row]) for row in parts.tolist()]


def whole(text: bytes) -> str:
    """The text without what is not UTF-8, such as the halves of a character that a cut left."""
    return text.decode("utf-8", "ignore")


def excerpt(rng: np.random.Generator, documents: Sequence[Document], size: int) -> str:
    """At least `size` bytes out of random places of random documents."""
    parts, have = [], 0
    while have < size:
        text = documents[int(rng.integers(len(documents)))].text
        start = int(rng.integers(len(text)))
        parts.append(text[start : start + size - have])
        have += len(parts[-1])
    return whole(b" ".join(parts))


def passage(rng: np.random.Generator, documents: Sequence[Document], size: int) -> str:
    """At most `size` bytes in a row of one document: the first of a few that has so many, or else the longest.

    Where all of them are very short, parts of several are joined.
    """
    text = b""
    for number in rng.integers(len(documents), size=TRIES).tolist():
        found = documents[number].text
        text = found if len(found) > len(text) else text
        if len(text) >= size:
            break
    if len(text) < min(size, SHORT):
        return whole(excerpt(rng, documents, size).encode()[:size])
    start = int(rng.integers(max(1, len(text) - size + 1)))
    return whole(text[start : start + size])


def pieces(text: str, most: int) -> list[str]:
    """The different paragraphs of a text, in its order, or its lines, or parts of them: at most `most` bytes each.

    Paragraphs have no empty line inside. Where there are fewer than four or some are longer, it is lines; then words in
    a row, with one space between them. None of the pieces is empty, and there may be none.
    """
    for separator in (r"\n\s*\n", r"\n"):
        found = [part.strip() for part in re.split(separator, text)]
        found = list(dict.fromkeys(part for part in found if part))
        if len(found) >= 4 and max(len(part.encode()) for part in found) <= most:
            return found
    return list(dict.fromkeys(_in_words(text, most)))


def _in_words(text: str, most: int) -> list[str]:
    found, line, length = [], [], 0
    for uncut in text.split():
        # a word that is longer is cut: characters have four bytes at most
        longest = len(uncut) if len(uncut.encode()) <= most else max(1, most // 4)
        for start in range(0, len(uncut), longest):
            word = uncut[start : start + longest]
            size = len(word.encode()) + 1  # and the space after it
            if line and length + size > most + 1:
                found.append(" ".join(line))
                line, length = [], 0
            line.append(word)
            length += size
    return [*found, " ".join(line)] if line else found
