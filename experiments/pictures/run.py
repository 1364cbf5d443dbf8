"""The pictures of a run's own log, as matplotlib figures: each takes the records of metrics.jsonl."""

import io
import itertools
import re

import numpy as np

from longctx.evals.drawing import INK, MUTED, THEME, colour_of, count, new_figure, numbers, style


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
    axes.set(xlabel="step", ylabel="training loss (nats per token)")
    axes.margins(x=0.01)
    axes.legend(title="context length")
    _token_axis(axes, column(steps, "step"), column(steps, "tokens"))
    return figure


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
    names = [f"{index + 1}: {records[0].get('seq_len', 0):,}" for index, records in grouped.items()]
    colours = [colour_of(records[0].get("seq_len", 0), lengths) for records in grouped.values()]
    rates = [middle(column(records, "tokens_per_s")) for records in grouped.values()]
    shares = [
        100 * (middle(column(records, "padding")) if waste.get(index) is None else waste[index])
        for index, records in grouped.items()
    ]
    panels = ((left, rates, "tokens per second", ",.0f"), (right, shares, "padding (%)", ".2g"))
    for axes, values, title, form in panels:
        bars = axes.bar(names, np.nan_to_num(values), color=colours, width=0.65)
        labels = [format(value, form) if np.isfinite(value) else "?" for value in values]
        axes.bar_label(bars, labels, padding=2, fontsize=8)
        axes.set(xlabel="stage: length", title=title)
        axes.margins(y=0.12)
        axes.grid(False, axis="x")
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
    names = [f"{index + 1}: {records[0].get('seq_len', 0):,}" for index, records in grouped.items()]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.28)
    axes.set_xlim(left=0)
    axes.set(xlabel="seconds", ylabel="stage: length")
    axes.legend(loc="lower right")
    return figure
