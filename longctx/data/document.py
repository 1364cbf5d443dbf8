"""A document, as it is read. Free of jax and grain."""

import dataclasses
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Document:
    """One text: its name (the path below data.path; of several in a file with :line, :row, ...) and its bytes, never
    empty.

    What is tokenised already has `ids` instead, int [at least two], with all special tokens that the model is to see.
    Its text is empty, or decoded from them where something reads it: see sources.load. Some of it may not count in the
    loss: `counts` bool, of each id; of a text `asked`, the parts that count, each (first byte, byte after the last);
    None: all of it. special: the text of a special token is that token, as in what a chat template writes.
    """

    name: str
    text: bytes = b""
    ids: np.ndarray | None = None
    counts: np.ndarray | None = None
    asked: tuple[tuple[int, int], ...] | None = None
    special: bool = False


def place(name: str) -> float:
    """A number in [0, 1) that depends on the name of a document only: held out is what lies below data.holdout."""
    digest = hashlib.md5(name.encode("utf-8", "surrogateescape"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4]) / 2**32
