"""Boolean functions to be learnt in context: conjunctions and parities of a few bits, from pairs x f(x).

Discrete functions in context as in Bhattamishra et al. 2023. An answer counts where all functions of the two kinds that
agree with the examples so far have the same value.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Series, log_uniform
from longctx.data.generated.writing import Writer

TASK = "A conjunction or a parity of at most {} of {} bits:\n"
BITS = 6, 10  # fewest and most of an input
WIDTH = 3  # most bits that a function reads
EXAMPLES = 8, 256  # fewest and most of a function
TRUE_SHARE = 0.5  # of the inputs are drawn where the function is 1: few are for a conjunction


class Functions(Series):
    """Pairs x f(x) of one random conjunction or parity after another."""

    smallest = len(TASK) + EXAMPLES[0] * (BITS[1] + 3) + 1

    def problem(self, rng: np.random.Generator, writer: Writer, documents: Sequence[Document]) -> None:
        """See Series.problem; `documents` are not read."""
        bits = int(rng.integers(BITS[0], BITS[1] + 1))
        values = table(bits)
        f = int(rng.integers(len(values)))
        most = (writer.room - len(TASK) - 1) // (bits + 3)
        count = log_uniform(rng, EXAMPLES[0], min(EXAMPLES[1], most) + 1)
        inputs, true = rng.integers(2**bits, size=count), np.flatnonzero(values[f])
        inputs = np.where(rng.random(count) < TRUE_SHARE, true[rng.integers(len(true), size=count)], inputs)
        inputs[-1] = inputs[int(rng.integers(count - 1))]  # an answer that is known in any case
        agree = np.arange(len(values))  # the functions that agree with the examples so far
        writer.say(TASK.format(WIDTH, bits))
        for x in inputs.tolist():
            said = values[agree, x]
            writer.say(f"{x:0{bits}b}")
            (writer.answer if said.all() or not said.any() else writer.say)(f" {int(values[f, x])}\n")
            agree = agree[said == values[f, x]]
        writer.say("\n")

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the value of every function that agrees with the examples."""
        *examples, asked = before.rpartition(":\n")[2].split("\n")
        pairs = [line.split() for line in examples]
        found = {
            value(kind, literals, asked)
            for kind, literals in functions(len(asked))
            if all(value(kind, literals, x) == int(y) for x, y in pairs)
        }
        (only,) = found
        return f" {only}\n"


def functions(bits: int) -> list[tuple[str, tuple[tuple[int, str], ...]]]:
    """All functions of so many bits: (kind, literals); a literal is a bit's place and the digit that makes it true.

    A parity is 1 where an odd number of its literals is true; all of its digits are 1.
    """
    found = []
    for width in range(1, WIDTH + 1):
        for places in itertools.combinations(range(bits), width):
            found += [
                ("and", tuple(zip(places, signs, strict=True))) for signs in itertools.product("01", repeat=width)
            ]
            if width > 1:  # of one bit it is a conjunction, too
                found.append(("parity", tuple((place, "1") for place in places)))
    return found


def value(kind: str, literals: tuple[tuple[int, str], ...], x: str) -> int:
    """The value of a function at x, written as zeros and ones."""
    true = sum(x[place] == digit for place, digit in literals)
    return int(true == len(literals)) if kind == "and" else true % 2


@functools.cache
def table(bits: int) -> np.ndarray:
    """The values of all functions at all inputs: bool [functions, 2^bits]."""
    inputs = np.arange(2**bits)
    ones = [(inputs >> (bits - 1 - place)) & 1 == 1 for place in range(bits)]
    rows = []
    for kind, literals in functions(bits):
        true = [ones[place] == (digit == "1") for place, digit in literals]
        rows.append(np.logical_and.reduce(true) if kind == "and" else np.logical_xor.reduce(true))
    return np.stack(rows)
