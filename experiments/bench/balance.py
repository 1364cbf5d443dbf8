"""Compares layouts: balance of attention over context shards, keys that shards need of others, time to lay out a row.

    python -m experiments.bench.balance --out balance.json --picture balance.png

Rows are packed with documents whose lengths are drawn like those of web pages, code, or mixtures for long contexts;
each figure is the mean over a few draws. Then a layer's attention on rows of the standard library's source code is
predicted for GPUs: by a ring, which waits at every hop, and with keys exchanged by need. Only laying out is timed.
"""

import dataclasses
import statistics
import sys

import numpy as np

from experiments.bench.harness import options, record
from experiments.hardware.targets import CHIPS
from experiments.meter.lengths import HEAP, KINDS, documents, laid_out, row
from experiments.planner import attention_step
from experiments.settings import console, places
from experiments.settings.models import MODELS
from longctx import balance
from longctx.config import DataConfig
from longctx.data import sources
from longctx.data.dealing import deal
from longctx.data.packing.best_fit import pack
from longctx.errors import UserError
from longctx.evals import drawing as figures
from longctx.layouts import balanced

BLOCK = 256
LAYOUTS = ("contiguous", "zigzag", "striped(256)", "per_document(256)", HEAP, "balanced(256)")
OURS = LAYOUTS[-1]
DRAWS = {512: 2}  # 5 for fewer shards
WINDOWED = ((1024, 5), (None, 1))  # (window, layers), as in Gemma 3
CHOICES = (  # (layout, exchange)
    ("zigzag", "ring"),
    ("per_document(256)", "ring"),
    ("striped(256)", "ring"),
    ("zigzag", "by need"),
    ("per_document(256)", "by need"),
    (OURS, "by need"),
)
SPEEDUPS = tuple(f"times as fast as {layout}, {exchange}" for layout, exchange in CHOICES[:2])
CHIP = "h100"
RANKS, RANK_ROWS, RANK_TOKENS = (8, 32, 128), 4, 1 << 17
ROWS = 5  # of the standard library, at each length
LIMITS = {"work": 1.02, "padding": 0.005, "received": 1.0, "planning_ms": 50.0}
JOINED = 1.05  # work of the busiest rank / mean
LABELS = {
    "work": "I, work of the busiest shard / mean",
    "padding": "padding",
    "received": "keys received / a ring's",
    "planning_ms": "ms of planning",
}


def compare(kind: str, shards: int, tokens: int) -> list[dict]:
    """A record per layout, with means over the draws."""
    records = []
    rows = [row(documents(kind, shards * tokens, 100 + seed)) for seed in range(DRAWS.get(shards, 5))]
    for layout in LAYOUTS:
        draws = []
        for drawn in rows:
            batch, milliseconds = laid_out(drawn, layout, shards)
            measured = balance.measure(**batch, shards=shards, block=BLOCK)
            draws.append(dataclasses.asdict(measured) | {"planning_ms": milliseconds})
        records.append(
            {"kind": kind, "shards": shards, "layout": layout}
            | {name: statistics.fmean(draw[name] for draw in draws) for name in draws[0]}
            | {"worst": max(draw["work"] for draw in draws)}
        )
    return records


def windowed(kind: str, shards: int, tokens: int) -> dict:
    """I (see LEGEND) of OURS, laid out for layers with and without a window: of all layers, and of each kind."""
    batch, _ = laid_out(row(documents(kind, shards * tokens, 100)), OURS, shards, WINDOWED)
    groups = {"together": WINDOWED, "window": WINDOWED[:1], "full": WINDOWED[1:]}
    return {"kind": kind, "shards": shards} | {
        name: balance.measure(**batch, shards=shards, reaches=reaches, block=BLOCK).work
        for name, reaches in groups.items()
    }


def ranks(kind: str, count: int) -> dict:
    """Work of the busiest of `count` ranks / the mean, for rows as drawn, as dealt and, laid out as one, as joined.

    Each rank has RANK_ROWS rows of RANK_TOKENS tokens.
    """
    lengths = [np.array(documents(kind, RANK_TOKENS, 100 + i)) for i in range(count * RANK_ROWS)]
    work = np.array([balanced.pairs(x, None).sum() for x in lengths])
    load = lambda owner: balance.most(np.bincount(owner, work))
    return {
        "kind": kind,
        "ranks": count,
        "drawn": load(np.arange(len(work)) // RANK_ROWS),
        "dealt": load(deal(work, count)),
        "joined": _joined(np.concatenate(lengths), count),
        "largest": float(work.max() / work.mean() / RANK_ROWS),
    }


def _joined(lengths: np.ndarray, shards: int) -> float:
    """Work of the busiest shard / the mean, of all documents as one row in the layout OURS."""
    batch, _ = laid_out(row(lengths), OURS, shards)
    return balance.most(balance.work(**batch, shards=shards, reach=None).sum(axis=1))


def library(shards: int, tokens: int) -> list[dict]:
    """A record per entry of CHOICES: predicted time of a layer's attention on rows of the standard library's files."""
    shape = MODELS["llama3_8b"]
    layer = attention_step.Layer(shape["heads"], shape["kv_heads"], shape["head_dim"], BLOCK)
    lengths = np.array([len(document.text) + 1 for document in sources.load(DataConfig()).train])
    packing = pack(lengths, shards * tokens)
    chosen = np.random.default_rng(0).permutation(packing.rows)[:ROWS]
    times = {choice: [] for choice in CHOICES}
    for number in chosen:
        inside = packing.length[packing.row_start[number] : packing.row_start[number + 1]]
        packed = row(np.append(inside, shards * tokens - inside.sum()))
        packed["segments"][packed["segments"] > len(inside)] = 0
        for layout, exchange in CHOICES:
            tiles = balance.tiles(**laid_out(packed, layout, shards)[0], shards=shards, reach=None, block=BLOCK)
            times[layout, exchange].append(attention_step.seconds(exchange, tiles, tokens // BLOCK, layer, CHIPS[CHIP]))
    mean = {choice: statistics.fmean(seconds) for choice, seconds in times.items()}
    return [
        {"shards": shards, "layout": layout, "exchange": exchange, "ms": 1e3 * seconds}
        | {name: mean[choice] / seconds for name, choice in zip(SPEEDUPS, CHOICES, strict=False)}
        for (layout, exchange), seconds in mean.items()
    ]


def comparison_table(records: list[dict]) -> str:
    """The table of `compare`'s records, see LEGEND."""
    percent = lambda value: f"{100 * value:.2f}"
    columns = {
        "lengths": lambda r: r["kind"],
        "shards": lambda r: r["shards"],
        "layout": lambda r: r["layout"],
        "I": lambda r: f"{r['work']:.3f}",
        "worst": lambda r: f"{r['worst']:.3f}",
        "J": lambda r: f"{r['lockstep']:.2f}",
        "received %": lambda r: percent(r["received"]),
        "most %": lambda r: percent(r["received_most"]),
        "padding %": lambda r: percent(r["padding"]),
        "tiles": lambda r: f"{r['tiles']:.2f}",
        "waste": lambda r: f"{r['waste']:.2f}",
        "ms": lambda r: f"{r['planning_ms']:.1f}",
    }
    return console.table(columns, [[cell(r) for cell in columns.values()] for r in records])


LEGEND = """I: work of the busiest shard / mean, over the draws and in the worst; J: time of a lock-step ring, which
waits for the busiest shard at every hop, / mean work; received: keys that a shard needs from others, as a fraction of
those that a ring brings, mean and most; tiles: blocks that the busiest shard's kernel computes / mean; waste: pairs of
tokens in these blocks / pairs that see each other; ms: time to lay out a row, on one core."""


def windowed_table(records: list[dict]) -> str:
    """The table of `windowed`'s records."""
    return console.table(
        ("lengths", "shards", "I of all layers", "I of those with a window", "I of the others"),
        [(r["kind"], r["shards"], *(f"{r[name]:.3f}" for name in ("together", "window", "full"))) for r in records],
    )


def ranks_table(records: list[dict]) -> str:
    """The table of `ranks`' records."""
    return console.table(
        ("lengths", "ranks", "as drawn", "dealt", "joined", "largest row"),
        [
            (r["kind"], r["ranks"], *(f"{r[name]:.3f}" for name in ("drawn", "dealt", "joined", "largest")))
            for r in records
        ],
    )


def library_table(records: list[dict]) -> str:
    """The table of `library`'s records."""
    names = "ms", *SPEEDUPS
    return console.table(
        ("shards", "layout", "exchange", *names),
        [(r["shards"], r["layout"], r["exchange"], *(console.number(r[name]) for name in names)) for r in records],
    )


@figures.style
def picture(records: list[dict]):
    """Bars of attention's speed-up over a ring under zigzag on the standard library, by layout and exchange."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(figures.SIZE[0] * 1.4, figures.SIZE[1]), layout="constrained")
    axes, shards = figure.subplots(), list(dict.fromkeys(r["shards"] for r in records))
    width = 0.84 / len(CHOICES)
    for i, (layout, exchange) in enumerate(CHOICES):
        group = [r for r in records if (r["layout"], r["exchange"]) == (layout, exchange)]
        bars = axes.bar(
            np.arange(len(shards)) + width * (i - (len(CHOICES) - 1) / 2),
            [r[SPEEDUPS[0]] for r in group],
            width,
            color=figures.PALETTE[i],
            label=f"{layout}, {exchange}",
        )
        axes.bar_label(bars, [f"{console.number(r['ms'])} ms" for r in group], fontsize=6, padding=2, rotation=90)
    axes.set_xticks(range(len(shards)), [f"{count} shards" for count in shards])
    axes.set(ylabel=SPEEDUPS[0], title=f"attention of a layer on packed source code, predicted for {CHIP}")
    axes.grid(False, axis="x")
    axes.margins(y=0.2)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def arguments(argv):
    """The parsed and checked options."""
    parser = options.parser(__doc__, out=None)
    parser.add_argument(
        "--lengths", default=",".join(KINDS), help="distributions of document lengths (default: %(default)s)"
    )
    parser.add_argument("--shards", default="8,32,128,512", help="context shards, with commas (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a shard (default: %(default)s)")
    parser.add_argument("--picture", metavar="FILE.png", help="draw the predicted speed-ups")
    args = parser.parse_args(argv)
    args.lengths = console.names("--lengths", args.lengths, KINDS)
    args.shards = console.whole_numbers("--shards", args.shards)
    if args.tokens < 512 or args.tokens % 512:
        raise UserError(f"--tokens={args.tokens} must be a multiple of 512, the widest chunks that are compared.")
    places.check_file("--out", args.out)
    places.check_file("--picture", args.picture)
    return args


def targets(records: list[dict], joined: list[dict]) -> list[dict]:
    """LIMITS beside the worst values of OURS, and JOINED beside that of `ranks`' records."""
    ours = [r | {"work": r["worst"]} for r in records if r["layout"] == OURS]
    return [
        record.target(f"{OURS}: {LABELS[name]}, at most", max(r[name] for r in ours), at_most=limit)
        for name, limit in LIMITS.items()
    ] + [
        record.target("joined rows: work of the busiest rank / mean", max(r["joined"] for r in joined), at_most=JOINED)
    ]


def main(argv=None) -> int:
    args = arguments(argv)
    environment, records = record.environment(), []
    for kind in args.lengths:
        for shards in args.shards:
            print(f"{kind} lengths, {shards} shards ...", file=sys.stderr)
            records += compare(kind, shards, args.tokens)
    mixed = [windowed(kind, shards, args.tokens) for kind in args.lengths for shards in args.shards]
    dealt = [ranks(kind, count) for kind in args.lengths for count in RANKS]
    steps = [record for shards in args.shards for record in library(shards, args.tokens)]
    checked = targets(records, dealt)
    print(comparison_table(records) + "\n" + LEGEND)
    print(f"\n{OURS} for 5 layers with a window of 1024 and 1 without:\n" + windowed_table(mixed))
    print(
        f"\nwork of the busiest of data-parallel ranks / mean, {RANK_ROWS} rows of {RANK_TOKENS:,} tokens each:\n"
        + ranks_table(dealt)
    )
    print(
        f"\nattention of a layer of Llama 3 8B on the standard library's files, predicted for {CHIP}:\n"
        + library_table(steps)
    )
    print("assumed: " + ";\n  ".join(attention_step.assumptions(CHIPS[CHIP])))
    print("\n" + record.target_table(checked))
    record.write(
        args.out,
        {
            "benchmark": "balance",
            "environment": environment,
            "records": records,
            "windowed": mixed,
            "ranks": dealt,
            "library": steps,
            "targets": checked,
        },
    )
    if args.picture:
        picture(steps).savefig(args.picture, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
