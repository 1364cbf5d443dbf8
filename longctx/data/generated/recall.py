"""Associative recall: keys and their values planted among filler, then every key again, whose value is to be answered.

A row of T inputs is T + 1 - 2n tokens of haystack, in which n needles (a key and the value after it) lie at random
places, then the n keys in random order, each followed by its value; after the last one the row ends. Only the answers
count. It is MQAR (Arora et al. 2023) with the questions at the end, so that the length is the distance to look back.
Tokens are numbered: keys, then values, then filler.
"""

import dataclasses

import numpy as np

from longctx.config import RecallConfig
from longctx.errors import UserError


def check(task: RecallConfig, length: int, field: str) -> None:
    """Raises UserError where no rows of that length can be made; `field` names the setting of the length."""
    if min(dataclasses.astuple(task)) < 1:
        raise UserError(
            f"recall: needles, key_tokens, value_tokens and filler_tokens must all be at least 1, and they are "
            f"{', '.join(map(str, dataclasses.astuple(task)))}."
        )
    if task.key_tokens < task.needles:
        raise UserError(
            f"recall.key_tokens={task.key_tokens} must be at least recall.needles={task.needles}: no key comes twice."
        )
    if length < 4 * task.needles:
        raise UserError(
            f"{field}={length} must be at least {4 * task.needles}, for recall.needles={task.needles} and "
            "their questions."
        )


def vocab_size(task: RecallConfig) -> int:
    """The number of different tokens in the rows of a task: keys, values and filler."""
    return task.key_tokens + task.value_tokens + task.filler_tokens


def questions(task: RecallConfig, length: int) -> np.ndarray:
    """The columns of a row in which a key is asked for, and its value the target."""
    return length + 1 - 2 * task.needles + 2 * np.arange(task.needles)


def row(rng: np.random.Generator, task: RecallConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
    """One row: (ids int32 [length + 1], place int64 [needles]).

    place: the column of each needle's key, in the order of the questions. No key comes twice; values are drawn
    independently, so that earlier answers tell nothing.
    """
    n, haystack = task.needles, length + 1 - 2 * task.needles
    keys = rng.permutation(task.key_tokens)[:n]
    values = task.key_tokens + rng.integers(task.value_tokens, size=n)
    place = np.sort(rng.permutation(haystack - n)[:n]) + np.arange(n)  # pairs that do not overlap, all alike likely
    order = rng.permutation(n)
    ids = np.empty(length + 1, np.int32)
    ids[:haystack] = task.key_tokens + task.value_tokens + rng.integers(task.filler_tokens, size=haystack)
    ids[place], ids[place + 1] = keys, values
    ids[haystack::2], ids[haystack + 1 :: 2] = keys[order], values[order]
    return ids, place[order]


@dataclasses.dataclass(frozen=True)
class RecallRows:
    """`count` rows of `length` inputs, each made from the seed, the length and its number when it is asked for: for
    longctx.data.pipeline.BatchStream, in place of PackedRows."""

    task: RecallConfig
    length: int
    seed: int
    count: int = 1 << 24

    def __len__(self) -> int:
        return self.count

    @property
    def fingerprint(self) -> int:
        """A checksum of what the rows are made from."""
        return hash(self)

    def longest(self, rows: np.ndarray) -> np.ndarray:
        """i64 [rows]: the tokens of the one document of each of the given rows."""
        return np.full(len(rows), self.length)

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """A batch of the rows with these numbers, of the arrays that PackedRows.gather documents: each row is one
        document, and weights are 1 where the target is the value that was asked for, 0 elsewhere."""
        ids = np.stack([self.row(number)[0] for number in rows])
        weights = np.zeros((len(ids), self.length), np.float32)
        weights[:, questions(self.task, self.length)] = 1
        ones = np.ones((len(ids), self.length), np.int32)
        return {
            "tokens": ids[:, :-1],
            "targets": ids[:, 1:],
            "weights": weights,
            "positions": ones * np.arange(self.length, dtype=np.int32),
            "segments": ones,
        }

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Row `number`: (ids int32 [length + 1], place int64 [needles]), as the function of that name makes them."""
        return row(np.random.default_rng([self.seed, self.length, int(number)]), self.task, self.length)
