"""The pictures of a run's own log, as matplotlib figures: each takes the records of metrics.jsonl."""

import io
import itertools
import re

import numpy as np

from longctx.evals.drawing import INK, MUTED, PALETTE, THEME, colour_of, count, new_figure, numbers, style

SOURCE = "loss/"  # what the names of losses by source begin with


@style
def svg(figure, name: str) -> str:
    """The figure as an <svg> element to put inside a page, its neutral colours as CSS variables."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids that no other picture of the page has
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # every picture calls them axes_1, line2d_1, ...
    opening, rest = text.split(">", 1)
    text = re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest  # the page decides; viewBox keeps the shape
    for colour, variable in THEME.items():
        text = text.replace(colour, f"var({variable})")
    return text


def column(records: list[dict], name: str) -> np.ndarray:
    """A field of all records as f64, NaN where it is missing or null."""
    return numbers(record.get(name) for record in records)


def seconds_running(steps: list[dict]) -> np.ndarray:
    """Seconds that the steps up to each record took since the record before, compilation and pauses left out."""
    tokens = column(steps, "tokens")
    return np.nan_to_num(np.diff(tokens, prepend=0.0) / column(steps, "tokens_per_s"))


def middle(values: np.ndarray) -> float:
    """The median of the finite values, NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def most(values: np.ndarray) -> float:
    """The largest of the finite values, NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else float("nan")


def smoothed(values: np.ndarray, span: int) -> np.ndarray:
    """Average under a two-sided exponential kernel of about `span` values; those that are not finite have no weight."""

    def past(values):  # sum over j <= i of decay^(i-j) values[j]
        return np.array(list(itertools.accumulate(values, lambda total, value: decay * total + value)))

    def both_sides(values):
        return past(values) + past(values[::-1])[::-1] - values

    decay = 1 - 1 / max(span, 1)
    finite = np.isfinite(values)
    total, weight = both_sides(np.where(finite, values, 0.0)), both_sides(finite.astype(float))
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0)


def by_stage(steps: list[dict]) -> dict[int, list[dict]]:
    """The step records of each stage, in order."""
    stages: dict[int, list[dict]] = {}
    for record in steps:
        stages.setdefault(record.get("stage", 0), []).append(record)
    return stages


@style
def loss(steps: list[dict], lengths: list[int]):
    """Training loss by step, raw and smoothed, coloured by the stage's length, and held-out loss where it was measured;
    tokens on the upper axis."""
    figure, axes = new_figure()
    every = max(1, len(steps) // 2000)
    seen = set()
    for records in by_stage(steps).values():
        length = records[0].get("seq_len", 0)
        x, y = column(records, "step"), column(records, "loss")
        colour = colour_of(length, lengths)
        axes.plot(x[::every], y[::every], color=colour, alpha=0.28, linewidth=0.9)
        axes.plot(
            x[::every],
            smoothed(y, max(3, len(steps) // 50))[::every],
            color=colour,
            label=None if length in seen else f"{length:,} tokens",
        )
        seen.add(length)
    _held_out(axes, steps, lengths)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.margins(x=0.01)
    axes.legend(title="context length")
    _token_axis(axes, column(steps, "step"), column(steps, "tokens"))
    return figure


@style
def by_source(steps: list[dict], lengths: list[int]):
    """Training loss of each source of a mixture by step, raw and smoothed, and held-out loss where it was measured."""
    figure, axes = new_figure()
    for number, name in enumerate(sources(steps)):
        x, y = column(steps, "step"), column(steps, name)
        there = np.isfinite(y)
        x, y = x[there], y[there]
        axes.plot(x, y, color=PALETTE[number % len(PALETTE)], alpha=0.28, linewidth=0.9)
        label = name.removeprefix(SOURCE)
        axes.plot(x, smoothed(y, max(3, len(y) // 50)), color=PALETTE[number % len(PALETTE)], label=label)
    _held_out(axes, steps, lengths)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.margins(x=0.01)
    axes.set_ylim(bottom=0)
    axes.legend(title="source")
    return figure


def sources(steps: list[dict]) -> list[str]:
    """The fields that hold the loss of a source, "loss/text" and so on, in the order in which they first appear."""
    return list(dict.fromkeys(name for record in steps for name in record if name.startswith(SOURCE)))


@style
def optimiser(steps: list[dict], lengths: list[int]):
    """Two panels by step, coloured by the stage's length: the learning rate, and the gradient norm before clipping."""
    figure, (left, right) = new_figure(columns=2)
    every, norms = max(1, len(steps) // 2000), column(steps, "grad_norm")
    for records in by_stage(steps).values():
        colour = colour_of(records[0].get("seq_len", 0), lengths)
        x, rate, norm = (column(records, name) for name in ("step", "learning_rate", "grad_norm"))
        left.plot(x[::every], rate[::every], color=colour)
        right.plot(x[::every], norm[::every], color=colour, alpha=0.28, linewidth=0.9)
        right.plot(x[::every], smoothed(norm, max(3, len(steps) // 50))[::every], color=colour)
    if (norms[np.isfinite(norms)] > 0).all() and np.isfinite(norms).any():
        right.set_yscale("log")
    left.set_ylim(bottom=0)
    left.ticklabel_format(axis="y", scilimits=(-3, 4))
    for axes, title in ((left, "learning rate"), (right, "gradient norm")):
        axes.set(xlabel="step", title=title)
        axes.margins(x=0.02)
        axes.locator_params(axis="x", nbins=4)
    return figure


@style
def hardware(steps: list[dict], lengths: list[int]):
    """Two panels by stage: the share of the peak FLOP/s, or where no peak is known the FLOP/s; and the most memory."""
    figure, (left, right) = new_figure(columns=2)
    grouped = by_stage(steps)
    colours = [colour_of(records[0].get("seq_len", 0), lengths) for records in grouped.values()]
    shares = [100 * middle(column(records, "mfu")) for records in grouped.values()]
    rates = [middle(column(records, "flops_per_s")) for records in grouped.values()]
    gigabytes = [most(column(records, "peak_bytes")) / 1e9 for records in grouped.values()]
    unit, size = flops_unit(np.nanmax(np.nan_to_num(rates)))
    compute = (shares, "MFU (%)", ".1f") if np.isfinite(shares).any() else ([r / size for r in rates], unit, ".3g")
    names = _stage_names(grouped)
    _bars(left, names, colours, *compute)
    _bars(right, names, colours, gigabytes, "peak memory (GB)", ".3g")
    return figure


def flops_unit(rate: float) -> tuple[str, float]:
    """The unit in which a rate of FLOPs per second is a number from 1 to 1000, and its size."""
    units = (("PFLOP/s", 1e15), ("TFLOP/s", 1e12), ("GFLOP/s", 1e9))
    return next(((unit, size) for unit, size in units if rate >= size), ("MFLOP/s", 1e6))


def _stage_names(grouped: dict[int, list[dict]]) -> list[str]:
    return [f"{index + 1}: {records[0].get('seq_len', 0):,}" for index, records in grouped.items()]


def _bars(axes, names: list[str], colours: list[str], values, title: str, form: str) -> None:
    """A panel with a bar for each stage, its value above it; "?" where it is not known."""
    bars = axes.bar(names, np.nan_to_num(values), color=colours, width=0.65)
    axes.bar_label(
        bars, [format(value, form) if np.isfinite(value) else "?" for value in values], padding=2, fontsize=8
    )
    axes.set(xlabel="stage: length", title=title)
    axes.margins(y=0.12)
    axes.grid(False, axis="x")


def _held_out(axes, steps: list[dict], lengths: list[int]) -> None:
    """The held-out losses as a line with a dot in the stage's colour at each; nothing where none were measured."""
    measured = [record for record in steps if record.get("held_out_loss") is not None]
    if not measured:
        return
    x, y = column(measured, "step"), column(measured, "held_out_loss")
    colours = [colour_of(record.get("seq_len", 0), lengths) for record in measured]
    axes.plot(x, y, color=INK, linewidth=0.9, zorder=3, marker="o", label="held-out text")
    axes.scatter(x, y, s=14, color=colours, edgecolors=INK, linewidths=0.8, zorder=4)


def _token_axis(axes, steps: np.ndarray, tokens: np.ndarray) -> None:
    """An upper axis of tokens over one of steps; none where the records do not tell."""
    from matplotlib.ticker import MaxNLocator

    if len(steps) < 2 or not ((np.diff(steps) > 0).all() and (np.diff(tokens) > 0).all()):  # NaN compares false
        return
    x, y = (np.concatenate([2 * v[:1] - v[1:2], v, 2 * v[-1:] - v[-2:-1]]) for v in (steps, tokens))  # one step more
    axes.set_xlim(x[0], x[-1])
    upper = axes.secondary_xaxis("top", functions=(lambda s: np.interp(s, x, y), lambda t: np.interp(t, y, x)))
    upper.set_xticks([tick for tick in MaxNLocator(7).tick_values(y[0], y[-1]) if y[0] <= tick <= y[-1]])
    upper.xaxis.set_major_formatter(lambda value, _: count(value))
    upper.set_xlabel("tokens seen")
    upper.spines["top"].set_visible(False)


@style
def speed(steps: list[dict], stages: list[dict], lengths: list[int]):
    """Two panels by stage: the median tokens per second, and the share of each batch that is padding."""
    figure, (left, right) = new_figure(columns=2)
    grouped = by_stage(steps)
    waste = {record["stage"]: record.get("waste") for record in stages}
    names = _stage_names(grouped)
    colours = [colour_of(records[0].get("seq_len", 0), lengths) for records in grouped.values()]
    rates = [middle(column(records, "tokens_per_s")) for records in grouped.values()]
    shares = [
        100 * (middle(column(records, "padding")) if waste.get(index) is None else waste[index])
        for index, records in grouped.items()
    ]
    _bars(left, names, colours, rates, "tokens per second", ",.0f")
    _bars(right, names, colours, shares, "padding (%)", ".2g")
    right.set_ylim(0, max(1.0, 1.15 * np.nanmax(np.nan_to_num(shares))))
    return figure


@style
def where_time_went(steps: list[dict], stages: list[dict], lengths: list[int]):
    """Seconds of every stage: compiling its step once, and running its steps."""
    figure, axes = new_figure()
    compile_s = {record["stage"]: record.get("compile_s") or 0.0 for record in stages}
    grouped = by_stage([{**record, "s": s} for record, s in zip(steps, seconds_running(steps), strict=True)])
    for row, (index, records) in enumerate(grouped.items()):
        compiling, running = compile_s.get(index, 0.0), column(records, "s").sum()
        axes.barh(row, compiling, color=MUTED, height=0.55, label="compiling" if row == 0 else None)
        axes.barh(row, running, left=compiling, color=colour_of(records[0].get("seq_len", 0), lengths), height=0.55)
        axes.annotate(
            f"{compiling:.1f} s + {running:,.0f} s",
            (compiling + running, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(grouped)), _stage_names(grouped))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.28)
    axes.set_xlim(left=0)
    axes.set(xlabel="seconds", ylabel="stage: length")
    axes.legend(loc="lower right")
    return figure
