"""Texts that RULER's own prompts are made of: the word lists of a package, and the user's essays."""

import functools
import importlib.resources
import importlib.util
import json
import pathlib
import re
from collections.abc import Collection, Iterator

import numpy as np

from longctx.errors import UserError
from longctx.evals.questions import words

PER_SENTENCE = 8  # words of a generated sentence


@functools.cache
def listed(*kinds: str) -> tuple[str, ...]:
    """The words of wonderwords' lists of some kinds ("noun", "adjective", "verb"), each once, in order.

    Raises UserError where the package is missing.
    """
    if importlib.util.find_spec("wonderwords") is None:
        raise UserError("RULER's own tasks need wonderwords, which is not installed: pip install 'longctx[ruler]'.")
    folder = importlib.resources.files("wonderwords") / "assets"
    texts = [(folder / f"{kind}list.txt").read_text(encoding="utf-8") for kind in kinds]
    return tuple(sorted({line.rstrip() for text in texts for line in text.splitlines()}))


def keys(rng: np.random.Generator, without: Collection[str] = ()) -> Iterator[str]:
    """Yields "adjective-noun" keys of the package's words, each once and none of `without`."""
    adjectives, nouns, seen = listed("adjective"), listed("noun"), set(without)
    while 2 * len(seen) < len(adjectives) * len(nouns):
        for i, j in words.picks(rng, 32, len(adjectives), len(nouns)):
            key = f"{adjectives[i]}-{nouns[j]}"
            if key not in seen:
                seen.add(key)
                yield key
    raise ValueError(f"{len(seen)} keys are used up.")


@functools.lru_cache(1)
def essays(folder: str) -> tuple[str, ...]:
    """The words of the texts in a folder: all its .txt files, and "text" of its .json files, by name.

    Raises UserError where there are none.
    """
    files = sorted(path for path in pathlib.Path(folder).glob("*") if path.suffix in (".txt", ".json"))
    texts = [path.read_text(encoding="utf-8") for path in files]
    try:
        told = [
            json.loads(text)["text"] if path.suffix == ".json" else text
            for path, text in zip(files, texts, strict=True)
        ]
        found = tuple(" ".join(told).split())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'eval.essays={folder!r}: a .json file holds no object with a "text" ({error}).') from error
    if not found:
        raise UserError(
            f'eval.essays={folder!r} holds no text: its .txt files, or .json files with a "text", are read.'
        )
    return found


def sentences(rng: np.random.Generator, folder: str, size: int) -> list[str]:
    """The sentences of a text of `size` words: the essays from their start, as often as needed, or generated prose."""
    if folder:
        known = essays(folder)
        text = (known * (size // len(known) + 1))[:size]
    else:
        text = " ".join(words.prose(rng, size // PER_SENTENCE + 1)).split()[:size]
    return re.split(r"(?<=[.!?]) (?=[A-Z\"'(])", " ".join(text))


def inserted(lines: list[str], shares: np.ndarray, facts: list[str]) -> list[str]:
    """The lines with the facts before different ones of them, by shares from 0 to 1; there must be as many lines."""
    found, start = [], 0
    for rank, i in enumerate(np.argsort(shares, kind="stable").tolist()):
        end = int(shares[i] * (len(lines) - len(facts) + 1)) + rank
        found += [*lines[start:end], facts[i]]
        start = end
    return [*found, *lines[start:]]
