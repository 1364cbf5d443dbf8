"""Retrieval of several values by key: lines "key: value" hidden in filler, some of which are asked for at the end.

Multi-key needles in a haystack as in RULER (Hsieh et al. 2024), with several of the keys asked for.
"""

import re
from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.passkey import GRASS
from longctx.data.generated.task import Generated, log_uniform
from longctx.data.generated.writing import Writer, Written, coined, excerpt, whole

TASK = "Lines such as key: value are hidden in this text. Some of the keys will be asked for.\n"
ASKED = "\nThe values of these keys:\n"
LINE = len("\nkabodigu: 12345\n")
MOST = 64, 8  # lines; keys that are asked for


class Retrieval(Generated):
    """Lines "key: value" in filler, some of whose keys are asked for; half of the fillers are the run's own text."""

    smallest = len(TASK + ASKED) + 3 * LINE

    def write(self, rng: np.random.Generator, size: int, documents: Sequence[Document]) -> Written:
        """See Generated.write."""
        own, seed = rng.random() < 0.5, int(rng.integers(1 << 62))  # before what depends on the size
        lines = log_uniform(rng, 1, min(MOST[0] + 1, max(2, size // (4 * LINE))))
        asked = int(rng.integers(1, min(lines, MOST[1]) + 1))
        keys, values = coined(rng, lines, 4), rng.integers(10_000, 100_000, lines).tolist()
        writer, room = Writer(size), size - len(TASK + ASKED) - (lines + asked) * LINE
        filler = (GRASS * (room // len(GRASS) + 1)).encode()
        if own:
            filler = excerpt(np.random.default_rng(seed), documents, room).encode()
        places = [0, *np.sort(rng.integers(room + 1, size=lines)).tolist(), room]
        writer.say(TASK)
        for i, key in enumerate(keys):
            writer.say(whole(filler[places[i] : places[i + 1]]) + f"\n{key}: {values[i]}\n")
        writer.say(whole(filler[places[-2] : room]) + ASKED)
        for i in rng.permutation(lines)[:asked].tolist():
            writer.say(f"{keys[i]}:")
            writer.answer(f" {values[i]}\n")
        return writer.written()

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: what stands on the line of the last key."""
        key = before.rpartition("\n")[2]
        return re.findall(rf"^{key}( \d+\n)", before, re.MULTILINE)[0]
