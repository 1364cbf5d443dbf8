"""Tables, JSON and a picture of a meter, and of several meters side by side."""

import dataclasses
import json
import pathlib

from experiments.hlo.loops import Certainty
from experiments.meter.measure import PARTS, PHASES, Meter, Row
from experiments.settings.console import table

MIB = 2**20
_TITLES = {"attention": "attention, a layer", "layers": "the rest of a layer", "rest": "all else, a step"}
_COLUMNS = "compiled", "closed form", "compiled / it", "steps", "hops", "beside compute"
_MARKS = {Certainty.EXACT: "", Certainty.AT_MOST: " at most", Certainty.UNKNOWN: " a turn"}
_COLORS = {"forward": "C0", "recomputed": "C1", "backward": "C2", "step": "C7"}


def summary(meter: Meter) -> dict:
    """The numbers of a meter, for comm.json: per device, and per layer (per step in the part "rest")."""
    return {
        "target": meter.target.name,
        "mesh": str(meter.config.mesh),
        "strategy": meter.config.attention.strategy,
        "layout": meter.config.attention.layout,
        "seq_len": meter.stage.seq_len,
        "batch_size": meter.stage.batch_size,
        "layers": meter.config.model.layers,
        "compile_s": round(meter.seconds_to_compile, 1),
        "balance": meter.balance and dataclasses.asdict(meter.balance),
        "rows": [_record(meter, row) for row in meter.rows],
    }


def _record(meter, row: Row) -> dict:
    times = meter.times(row.part)
    per = lambda value: None if value is None else value / times
    numbers = lambda load: {"elements": per(load and load.elements), "bytes": per(load and load.bytes)}
    attention = row.closed if row.part == "attention" else None
    return {
        "part": row.part,
        "phase": row.phase,
        "kind": row.kind,
        "axes": row.axes,
        "compiled": numbers(row.load) | {"steps": per(row.steps), "hops": per(row.hops)},
        "closed": numbers(row.closed and row.closed.load)
        | {"steps": per(attention and attention.steps), "hops": per(attention and attention.hops)},
        "loops": row.certainty.name.lower(),
        "beside_compute": row.overlap,
    }


def show(meter: Meter) -> None:
    """Prints the traffic of a step, and what the columns mean."""
    config = meter.config
    print(
        f"{meter.stage.batch_size} x {meter.stage.seq_len:,} tokens on {meter.target.name}, {config.mesh}: "
        f"{config.attention.strategy}, {config.attention.layout}. MiB leaving each device:"
    )
    for part in PARTS:
        rows = [_cells(_record(meter, row), row) for row in meter.rows if row.part == part]
        if rows:
            print("\n" + table((_TITLES[part], "along", *_COLUMNS), rows))
    if meter.balance:
        print("\n" + _balance(config.attention.layout, meter.balance))
    print("\n" + "\n".join(_notes(meter)))


def save(meters: dict[str, Meter], failed: dict[str, str], folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes comm.json and comm.png; returns their paths. meters: by name; failed: {name: reason}."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries = {name: summary(meter) for name, meter in meters.items()}
    several = failed or len(summaries) > 1
    content = {"variants": summaries, "failed": failed} if several else next(iter(summaries.values()))
    paths = [folder / "comm.json", folder / "comm.png"]
    paths[0].write_text(json.dumps(content, indent=1) + "\n")
    _picture(meters, paths[1])
    return paths


def compared(meters: dict[str, Meter], failed: dict[str, str]) -> None:
    """Prints attention's traffic in named meters, the least first, and the reasons why others could not be made."""
    phases = [phase for phase in PHASES if any(row.phase == phase for meter in meters.values() for row in meter.rows)]
    sent = {
        name: [load for phase in phases for load in meter.loads("attention", phase)] for name, meter in meters.items()
    }
    rows = [
        (name, *(_mib(load.bytes) for load in sent[name]), *_of_attention(meters[name]))
        for name in sorted(meters, key=lambda name: sum(load.bytes for load in sent[name]))
    ]
    header = "attention, a layer, MiB", *(f"{phase}{suffix}" for phase in phases for suffix in ("", ", closed form"))
    print(table((*header, "steps", "hops", "beside compute"), rows))
    for name, reason in failed.items():
        print(f"{name}: {reason}")


def _of_attention(meter):
    """Cells of attention in a layer: steps, hops, and the fraction of the bytes that travel beside compute."""
    rows = [row for row in meter.rows if row.part == "attention" and row.load]
    total = lambda field: _number(sum(getattr(row, field) for row in rows) / meter.times("attention"))
    whole = sum(row.load.bytes for row in rows)
    scheduled = whole and all(row.overlap is not None for row in rows)
    hidden = f"{sum(row.load.bytes * row.overlap for row in rows) / whole:.0%}" if scheduled else "-"
    return total("steps"), total("hops"), hidden


def _cells(record, row: Row):
    """The cells of a Row in the table of its part."""
    compiled, closed = record["compiled"], record["closed"]
    pair = lambda field: (
        _number(compiled[field])
        if closed[field] in (compiled[field], None)
        else f"{_number(compiled[field])} / {_number(closed[field])}"
    )
    return (
        f"{row.phase} {row.kind}",
        ", ".join(row.axes),
        _mib(compiled["bytes"]) + _MARKS[row.certainty],
        _mib(closed["bytes"]),
        "-" if row.ratio is None else f"{row.ratio:.{3 if row.ratio < 10 else 0}f}",
        pair("steps"),
        pair("hops"),
        "-" if row.overlap is None else f"{row.overlap:.0%}",
    )


def _balance(layout, balance):
    """The table of a layout's Balance."""
    header = (
        "shards, the busiest / the mean",
        "I: work",
        "J: by a lock-step ring",
        "tokens",
        "padding",
        "keys needed / a ring's",
    )
    ratios = (f"{ratio:.3f}" for ratio in (balance.work, balance.lockstep, balance.tokens))
    return table(header, [(layout, *ratios, f"{balance.padding:.2%}", f"{balance.received:.3f}")])


def _notes(meter):
    """Yields what the columns mean, and what limits the numbers of this meter."""
    yield (
        "compiled / it: in elements. steps: collectives that wait for one another, loops as a whole; hops: links of "
        "a ring that they cross; where they differ, compiled / closed form. beside compute: the fraction of the bytes "
        "that the schedule brackets around kernels or matmuls."
    )
    if meter.target.platform == "cpu":
        yield "Simulated devices send bfloat16 as float32, scatter no gradients, and wait for every collective."
    if meter.config.attention.strategy == "dispatch":
        yield (
            "dispatch sends the keys that a batch asks for; the closed form is the most that any can. Simulated "
            "devices gather all keys and pick, as their runtime has no ragged all-to-all."
        )
    if any(row.certainty is Certainty.UNKNOWN for row in meter.rows):
        yield (
            "a turn: of a loop that ends when the documents of a batch do; the closed form is of documents that "
            "never do."
        )
    if meter.config.memory.backward != "autodiff":
        yield f"memory.backward={meter.config.memory.backward!r} has no closed form, and phases are not told apart."


def _mib(size: float | None) -> str:
    return "-" if size is None else "<0.001" if 0 < size < 0.001 * MIB else f"{size / MIB:.4g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _picture(meters, path):
    """Draws bars of attention's bytes by meter and phase, or of all parts of a single meter; closed forms as marks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [
        (name if len(meters) > 1 else _TITLES[part], phase, *meter.loads(part, phase))
        for name, meter in meters.items()
        for part in (PARTS if len(meters) == 1 else PARTS[:1])
        for phase in PHASES
    ]
    bars = [bar for bar in bars if bar[2].bytes or bar[3].bytes]
    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.3 * len(bars)), layout="constrained")
    for place, (_, phase, compiled, closed) in enumerate(bars):
        axis.barh(place, compiled.bytes / MIB, color=_COLORS[phase])
        axis.plot(closed.bytes / MIB, place, "k|", markersize=14)
    axis.set_yticks(range(len(bars)), [f"{name}: {phase}" for name, phase, *_ in bars])
    axis.invert_yaxis()
    axis.set_xlabel("MiB leaving a device: bars as compiled, marks in closed form")
    meter = next(iter(meters.values()))
    axis.set_title(
        f"{meter.config.name}: {meter.stage.seq_len:,} tokens on {meter.target.name}, {meter.config.mesh}",
        fontsize="medium",
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
