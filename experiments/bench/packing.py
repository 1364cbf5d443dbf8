"""Measures what planning the rows of many documents takes: padding, seconds and memory of every way to pack.

    python -m experiments.bench.packing --out packing.json

Lengths of documents are drawn, of two kinds. Ways that look at nothing but lengths and names pack up to ten million
documents; those that compare what is in documents, as many as hold --compared random tokens. Each measurement has a
process of its own, whose peak memory it is, documents included. Seconds are those of its cores, which other work on the
machine does not lengthen much; all but those that compare take one core.
"""

import itertools
import sys
import time
from collections.abc import Iterable

import numpy as np

from experiments.bench.harness import options, record, sides
from experiments.meter import lengths
from experiments.settings import console, places
from longctx.data.packing.api import COMPARED, PACKINGS
from longctx.data.rows import TokenTable
from longctx.data.views import Lazy
from longctx.errors import UserError

DOCUMENTS = "100000,1000000,10000000"
ROW = 32_768  # tokens of a row of every way
ROWS = (4096, 16_384, 65_536, 131_072)  # of best_fit
SECONDS, GIGABYTES, WASTE = 60, 4, 0.1  # that best_fit is to take at most; WASTE: % of padding
TIGHT = 1_000_000  # documents from which on WASTE holds
FILES = 10  # of a repository


class Names(Lazy[str]):
    """The names of documents in repositories of FILES files."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def item(self, index: int) -> str:
        return f"{index // FILES}/{index % FILES}.txt"


def text_of(kind: str, documents: int, tokens: bool) -> TokenTable:
    """Documents of drawn lengths, with random tokens or without any."""
    inputs = lengths.corpus(kind, documents)
    starts = np.cumsum(inputs + 1) - inputs - 1
    size = int(inputs.sum()) + documents if tokens else 0
    ids = np.frombuffer(np.random.default_rng(0).bytes(size), np.uint8)
    return TokenTable(ids, starts, inputs, Names(documents))


def build(task: dict):
    """(ready, handlers) for a worker, see sides.serve; its request "pack" packs the documents."""
    way = task["packing"]
    text = text_of(task["lengths"], task["documents"], way in COMPARED)
    tokens = int(text.inputs.sum())

    def pack():
        start = time.process_time()
        packed = PACKINGS[way](text, task["row"], np.random.default_rng(0))
        seconds = time.process_time() - start
        return {"seconds": seconds, "padding": 100 * packed.waste, "left_out": 100 * packed.left_out / tokens}

    return {"tokens": tokens}, {"pack": pack}


def measure(kind: str, way: str, documents: int, row: int) -> dict:
    """A record; prints it as a line."""
    task = {"lengths": kind, "packing": way, "documents": documents, "row": row}
    with sides.Worker("experiments.bench.packing", task) as worker:
        tokens, found = worker.ready["tokens"], worker.ask("pack")
    found = task | {"tokens": tokens, "gigabytes": found.pop("peak_mb") / 1024} | found
    units = {"seconds": " s", "gigabytes": " GB", "padding": "% padding", "left_out": "% left out"}
    numbers = ", ".join(console.number(found[key]) + unit for key, unit in units.items())
    print(f"{way}, {documents:,} documents ({kind}), rows of {row:,}: {numbers}", flush=True)
    return found


def whole(documents: Iterable[int]) -> list[dict]:
    """The records of the ways that look at no token, at ROW."""
    ways = [way for way in PACKINGS if way not in COMPARED]
    return [measure(*case, ROW) for case in itertools.product(lengths.CORPORA, ways, documents)]


def compared(tokens: int) -> list[dict]:
    """The records of the ways that compare documents, which hold about so many tokens."""
    found = []
    for kind in lengths.CORPORA:
        count = max(round(tokens / lengths.corpus(kind, 100_000).mean()), 1)
        found += [measure(kind, way, count, ROW) for way in sorted(COMPARED)]
    return found


def aims(records: list[dict], by_rows: list[dict]) -> list[dict]:
    """What best_fit is to keep: time and memory of the most documents, and padding of TIGHT."""
    own = [one for one in records if one["packing"] == "best_fit"]
    most = max(one["documents"] for one in own)
    largest = [one for one in own if one["documents"] == most]
    tight = [one["padding"] for one in own + by_rows if one["documents"] == TIGHT]
    return [
        record.target(f"best_fit, {most:,} documents: s", max(r["seconds"] for r in largest), at_most=SECONDS),
        record.target("... peak memory, GB", max(r["gigabytes"] for r in largest), at_most=GIGABYTES),
        record.target(f"best_fit, {TIGHT:,} documents: % of padding", max(tight, default=None), at_most=WASTE),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = options.parser(__doc__, out=None, worker=None)
    parser.add_argument("--documents", default=DOCUMENTS, help="with commas (default: %(default)s)")
    parser.add_argument(
        "--compared",
        type=int,
        default=20_000_000,
        metavar="N",
        help="tokens of ways that compare (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.worker:
        return sides.serve(build, args.worker)
    documents = console.whole_numbers("--documents", args.documents)
    if args.compared < 1:
        raise UserError(f"--compared={args.compared} must be 1 or more.")
    places.check_file("--out", args.out)
    environment, records = record.environment(), whole(documents)
    of_rows = itertools.product(lengths.CORPORA, ["best_fit"], [min(max(documents), TIGHT)], ROWS)
    by_rows, slow = [measure(*case) for case in of_rows], compared(args.compared)
    checked = aims(records, by_rows)
    print("\n" + record.target_table(checked))
    found = {"records": records, "by_rows": by_rows, "compared": slow, "targets": checked}
    record.write(args.out, {"benchmark": "packing", "environment": environment, **found})
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
