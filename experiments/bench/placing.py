"""Compares schemes that place documents of uneven length on ranks: balance, bytes, padding, time to plan.

    python -m experiments.bench.placing --out placing.json

A global batch is a few rows of documents whose lengths are drawn like those of web pages, code, mixtures for long
contexts, or are those of the standard library's files. Every scheme of longctx.placing plans it for Llama 3 8B on H100
in nodes of 8; each figure is the mean over a few draws. Only planning is timed: nothing else is run.
"""

import functools
import statistics
import sys
import time
import types

import numpy as np

from experiments.bench.harness import options, record
from experiments.hardware.targets import CHIPS
from experiments.meter.lengths import KINDS, documents
from experiments.planner import placing as comparison
from experiments.settings import console, places
from experiments.settings.models import MODELS
from longctx import placing
from longctx.config import DataConfig
from longctx.data import sources
from longctx.errors import UserError
from longctx.placing import batches, dispatch, exhaustive, flexsp, flexsp_greedy
from longctx.placing.distca import TOLERANCE

STDLIB = "stdlib"
MODEL, CHIP = "llama3_8b", "h100"
FILLED = 0.99  # of the rows: whole documents leave a little
DRAWS, SMALL = 3, 30  # batches of each kind; small ones that are searched exhaustively
SEQUENCES, SMALL_RANKS = 512, 4
SOLVERS = {"flexsp": flexsp.solve, "flexsp_greedy": flexsp_greedy.solve, "HiGHS alone": flexsp.program}


def batch(kind: str, rows: int, tokens: int, seed: int) -> np.ndarray:
    """Lengths of documents that fill rows of so many tokens up to FILLED, each at most a row."""
    of_row = int(FILLED * tokens)
    if kind != STDLIB:
        return np.concatenate([documents(kind, of_row, 1000 * seed + row) for row in range(rows)])
    drawn = np.minimum(np.random.default_rng(seed).permutation(library()), of_row)
    total = np.cumsum(drawn)
    count = int(np.searchsorted(total, rows * of_row))
    if count == len(drawn):
        raise UserError(f"--rows={rows} rows of {tokens} tokens hold more than the {total[-1]} tokens of {STDLIB}.")
    return np.append(drawn[:count], rows * of_row - (total[count - 1] if count else 0))


@functools.cache
def library() -> np.ndarray:
    """The tokens of each file of the standard library."""
    return np.array([len(document.text) + 1 for document in sources.load(DataConfig()).train])


def cost(ranks: int, rows: int, tokens: int) -> placing.Cost:
    """The Cost of MODEL on CHIP, with comparison.ROOM for the tokens of the batch."""
    model = types.SimpleNamespace(**MODELS[MODEL])
    return comparison.cost(model, CHIPS[CHIP], max(1, comparison.ROOM * rows * tokens // ranks), tokens)


def compare(kind: str, ranks: int, rows: int, tokens: int) -> list[dict]:
    """A record per scheme, with means over the draws."""
    drawn = [batch(kind, rows, tokens, seed) for seed in range(DRAWS)]
    found = [comparison.compared(placing.SCHEMES, lengths, ranks, cost(ranks, rows, tokens)) for lengths in drawn]
    return [
        {"kind": kind, "ranks": ranks, "scheme": of[0]["scheme"], "worst": max(r["attention"] for r in of)}
        | {name: statistics.fmean(r[name] for r in of) for name in of[0] if name != "scheme"}
        | {"worst_ms": max(r["planning_ms"] for r in of), "documents": statistics.fmean(map(len, drawn))}
        for of in zip(*found, strict=True)
    ]


def meshes(kind: str, ranks: int, rows: int, tokens: int) -> list[dict]:
    """A record per mesh on which `dispatch` can lay out the rows of the first draw: rows at a time x context shards."""
    lengths, price, records = batch(kind, rows, tokens, 0), cost(ranks, rows, tokens), []
    for groups in (n for n in range(1, rows + 1) if ranks % n == 0 and tokens % (ranks // n) == 0):
        if tokens * groups // ranks <= price.capacity:
            packed = dispatch.packed(lengths, price)
            placement = dispatch.on_mesh(packed, lengths, groups, ranks // groups, tokens)
            mesh = f"{groups} x {ranks // groups}"
            records.append({"kind": kind, "mesh": mesh} | comparison.measured(placement, lengths, price))
    return records


def searched() -> list[dict]:
    """A record per solver: its time for a step / that of the best groups of all, over SMALL draws of few documents."""
    price, ratios = cost(SMALL_RANKS, 1, 1 << 15), {name: [] for name in SOLVERS}
    for seed in range(SMALL):
        rng = np.random.default_rng(seed)
        lengths = np.minimum(rng.lognormal(7.5, 1.8, exhaustive.DOCUMENTS).astype(np.int64) + 16, 4096)
        best = batches.slowest(exhaustive.search(lengths, SMALL_RANKS, price), lengths, price)
        for name, solve in SOLVERS.items():
            ratios[name].append(batches.slowest(solve(lengths, SMALL_RANKS, price), lengths, price) / best)
    return [
        {"solver": name, "draws": SMALL, "mean": statistics.fmean(of), "worst": max(of)} for name, of in ratios.items()
    ]


def timed(kind: str, ranks: int) -> list[dict]:
    """A record per solver: ms to plan a step of SEQUENCES documents, and its time / the least that any groups take."""
    rng = np.random.default_rng(0)
    lengths = np.array([max(16, min(KINDS[kind](rng), 65536)) for _ in range(SEQUENCES)]).astype(np.int64)
    price, records = cost(ranks, 1, int(lengths.sum())), []
    for name, solve in SOLVERS.items():
        start = time.process_time()
        found = solve(lengths, ranks, price)
        spent = 1e3 * (time.process_time() - start)
        ratio = found and batches.slowest(found, lengths, price) / batches.least(lengths, ranks, price)
        records.append({"kind": kind, "documents": SEQUENCES, "solver": name, "ms": spent, "over_least": ratio})
    return records


def targets(records: list[dict], small: list[dict], large: list[dict], of_meshes: list[dict]) -> list[dict]:
    """Aims beside the worst values."""
    worst = lambda scheme: max((r["worst"] for r in records if r["scheme"] == scheme), default=None)
    whole = [r["attention"] for r in of_meshes if r["mesh"].startswith("1 x ")]
    aim = lambda what, value, limit: record.target(what, value, at_most=limit)
    return [
        *(aim(f"{r['solver']}: time / the best groups of all, 8 documents, 4 ranks", r["worst"], 1.02) for r in small),
        *(
            aim(f"{s}: ms to plan {SEQUENCES} documents", max(r["ms"] for r in large if r["solver"] == s), 50.0)
            for s in SOLVERS
        ),
        aim("distca: attention of the busiest rank / mean", worst("distca"), 1 + TOLERANCE),
        aim("dispatch, one row at a time: attention of the busiest rank / mean", max(whole, default=None), 1.02),
        aim("dispatch_rows: attention of the busiest rank / mean", worst("dispatch_rows"), 1.02),
    ]


def arguments(argv):
    """The parsed and checked options."""
    parser = options.parser(__doc__, out=None)
    kinds = (*KINDS, STDLIB)
    parser.add_argument("--lengths", default=",".join(kinds), help="kinds of documents (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=64, help="devices (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=4, help="rows of a global batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=1 << 17, help="tokens of a row (default: %(default)s)")
    args = parser.parse_args(argv)
    args.lengths = console.names("--lengths", args.lengths, kinds)
    if args.ranks < 1 or args.rows < 1:
        raise UserError(f"--ranks={args.ranks} --rows={args.rows} must be whole numbers from 1 on.")
    if args.tokens < 512 or args.tokens % args.ranks:
        raise UserError(f"--tokens={args.tokens} must be at least 512 and divide by --ranks={args.ranks}.")
    places.check_file("--out", args.out)
    return args


def main(argv=None) -> int:
    args = arguments(argv)
    environment, records, of_meshes = record.environment(), [], []
    size = args.ranks, args.rows, args.tokens
    for kind in args.lengths:
        print(f"{kind} lengths ...", file=sys.stderr)
        records += compare(kind, *size)
        of_meshes += meshes(kind, *size)
    small, large = searched(), [r for kind in args.lengths if kind in KINDS for r in timed(kind, args.ranks)]
    checked = targets(records, small, large, of_meshes)
    print(comparison.table(records, "kind", "scheme") + "\n" + comparison.LEGEND)
    print("\ndispatch by mesh, rows at a time x context shards:")
    print(comparison.table(of_meshes, "kind", "mesh", columns=("attention", "both", "with sending", "GB")))
    for title, of in (("beside the best groups of all", small), (f"{SEQUENCES} documents in a step", large)):
        number = lambda x: console.number(x) if isinstance(x, float) else x
        print(f"\n{title}:\n" + console.table(list(of[0]) if of else (), [[*map(number, r.values())] for r in of]))
    print("assumed: " + ";\n  ".join(comparison.assumptions(CHIPS[CHIP])))
    print("\n" + record.target_table(checked))
    content = {"records": records, "meshes": of_meshes, "searched": small, "timed": large, "targets": checked}
    record.write(args.out, {"benchmark": "placing", "environment": environment} | content)
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
