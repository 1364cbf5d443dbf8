"""Passkey retrieval: a number hidden in filler, asked for at the end (Mohtashami & Jaggi 2023; Chen et al. 2023)."""
from collections.abc import Sequence

import numpy as np

from longctx.data.sources import Document
from longctx.data.tokenizers import Tokenizer

TASK = "There is an important info hidden inside a lot of irrelevant text. Find it: you will be asked for it.\n"
GRASS = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
NEEDLE = "\nThe pass key is {number}. Remember it. {number} is the pass key.\n"
QUESTION = "\nWhat is the pass key? The pass key is"
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
    return len(tokenizer.encode(bare.encode())) + 8 + 1         # another number may take a few tokens more


def training_documents(rng: np.random.Generator, tokenizer: Tokenizer, tokens: int, longest: int,
                       documents: Sequence[Document]) -> list[np.ndarray]:
    """Solved tasks as token ids, of at least `tokens` tokens in total; each fits a row of `longest` tokens.

    Lengths are uniform up to `longest`, depths uniform; every second filler is real text, cut out of `documents`.
    """
    low = shortest(tokenizer)
    if longest < low:
        raise ValueError(f"longest {longest} is less than the {low} tokens of the shortest task.")
    sample = GRASS.encode() * 40
    bytes_per_token = len(sample) / len(tokenizer.encode(sample))
    made, total = [], 0
    while total < tokens:
        size = int(rng.integers(low, longest + 1) * bytes_per_token)
        filler = _excerpt(rng, documents, size) if len(made) % 2 else GRASS
        ids = _fitted(rng, tokenizer, size, filler, longest)
        made.append(ids)
        total += len(ids) + 2       # its start and its end
    return made


def _fitted(rng: np.random.Generator, tokenizer: Tokenizer, size: int, filler: str, longest: int) -> np.ndarray:
    """One solved task of about `size` bytes; shortened until its inputs, the start token among them, fit `longest`."""
    depth = rng.random()
    while True:
        ids = tokenizer.encode("".join(prompt(rng, size, depth, filler)).encode())
        if len(ids) + 1 <= longest:
            return ids
        size = int(0.98 * size * longest / (len(ids) + 1))


def _excerpt(rng: np.random.Generator, documents: Sequence[Document], size: int) -> str:
    """At least `size` bytes out of random places of random documents."""
    parts, have = [], 0
    while have < size:
        text = documents[int(rng.integers(len(documents)))].text
        start = int(rng.integers(len(text)))
        parts.append(text[start:start + size - have])
        have += len(parts[-1])
    return _whole(b" ".join(parts))


def _whole(text: bytes) -> str:
    """Drops what is not UTF-8, such as the halves of a character that a cut left."""
    return text.decode("utf-8", "ignore")
