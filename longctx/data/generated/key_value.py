"""Values of a JSON object of UUIDs, by key, as in "Lost in the Middle" (Liu et al. 2023); one or several are asked."""

import re
from collections.abc import Sequence

import numpy as np

from longctx.data.document import Document
from longctx.data.generated.task import Generated
from longctx.data.generated.writing import Writer, Written

TASK = "JSON, of which values will be asked for by their keys:\n{"
UUID = 36  # characters
PAIR, QUESTION = 2 * UUID + len('"": "", '), 2 * UUID + len('Key "": ""\n')
MOST = 4  # keys that are asked for


class KeyValue(Generated):
    """Random UUIDs by UUIDs in JSON, and the values of one to four of them."""

    smallest = len(TASK) + PAIR + QUESTION

    def write(self, rng: np.random.Generator, size: int, documents: Sequence[Document]) -> Written:
        """See Generated.write; `documents` are not read."""
        most = (size - len(TASK)) // (PAIR + QUESTION)
        asked = int(rng.integers(1, min(MOST, most) + 1))
        pairs = (size - len(TASK) - asked * QUESTION) // PAIR
        ids = uuids(rng, 2 * pairs)
        writer = Writer(size)
        writer.say(TASK + ", ".join([f'"{ids[2 * i]}": "{ids[2 * i + 1]}"' for i in range(pairs)]) + "}\n")
        for i in rng.permutation(pairs)[:asked].tolist():
            writer.say(f'Key "{ids[2 * i]}":')
            writer.answer(f' "{ids[2 * i + 1]}"\n')
        return writer.written()

    def solve(self, before: str, documents: Sequence[Document]) -> str:
        """See Generated.solve: the value beside the last key."""
        key = re.findall(r'"(\S+)":', before)[-1]
        return re.findall(rf'"{key}":( "\S+")[,}}]', before)[0] + "\n"


def uuids(rng: np.random.Generator, count: int) -> list[str]:
    """`count` random UUIDs of version 4 as text."""
    octets = rng.integers(0, 256, (count, 16), np.uint8)
    octets[:, 6], octets[:, 8] = octets[:, 6] % 16 + 0x40, octets[:, 8] % 64 + 0x80
    texts = (row.tobytes().hex() for row in octets)
    return [f"{x[:8]}-{x[8:12]}-{x[12:16]}-{x[16:20]}-{x[20:]}" for x in texts]
