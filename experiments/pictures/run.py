"""The pictures of a run, as matplotlib figures. Each takes plain records and returns a Figure.

Colours that carry no data are the keys of THEME: as PNG they suit paper, and `svg` swaps them for CSS variables, so
that a page can show the same picture on a dark background. Data colours read on both.
"""

import functools
import io
import itertools
import re

import numpy as np

SIZE = (5.4, 3.5)  # inches; half a page wide, legible on a phone
THEME = {"#1b2430": "--ink", "#5d6877": "--muted", "#dde2e9": "--line", "#fefefe": "--card"}
INK, MUTED, LINE, CARD = THEME
PALETTE = ("#2f7fd1", "#e07b18", "#1a9a74", "#c04f9e", "#7c6ff0", "#c2463a", "#3aa7b8", "#8f8a1f")
MARKERS = "osD^vPX*"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": CARD,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
}


def style(draw):
    """Runs a drawing function under STYLE."""

    @functools.wraps(draw)
    def styled(*args):
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            return draw(*args)

    return styled


def _figure(columns: int = 1):
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots(1, columns)


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


def numbers(values) -> np.ndarray:
    """f64, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


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


def count(tokens: float) -> str:
    """'512', '8,192', '1.2M', '3.4B': a number of tokens for an axis or a headline."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:,.0f}" if tokens < 1e4 else f"{tokens / 1e3:.3g}k"


def by_stage(steps: list[dict]) -> dict[int, list[dict]]:
    """The step records of each stage, in order."""
    stages: dict[int, list[dict]] = {}
    for record in steps:
        stages.setdefault(record.get("stage", 0), []).append(record)
    return stages


def colour_of(length: int, lengths: list[int]) -> str:
    """The colour of a context length, the same in every picture."""
    return PALETTE[lengths.index(length) % len(PALETTE)]


@style
def loss(steps: list[dict], lengths: list[int]):
    """Training loss by step, raw and smoothed, coloured by the stage's length; tokens on the upper axis."""
    figure, axes = _figure()
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
    axes.set(xlabel="step", ylabel="training loss (nats per token)")
    axes.margins(x=0.01)
    axes.legend(title="context length")
    _token_axis(axes, column(steps, "step"), column(steps, "tokens"))
    return figure


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


def _length_axis(axis, values: list[int]) -> None:
    """A log2 axis over token counts, ticked at powers of four or so with plain numbers."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axis.axes.set_xscale("log", base=2)
    powers = [2**k for k in range(1, 31) if min(values) <= 2**k <= max(values)] or sorted(set(values))
    powers = powers[::-1][:: max(1, -(-len(powers) // 7))][::-1]
    axis.set_ticks(powers, [count(value) if value >= 1 << 20 else f"{value:,}" for value in powers])
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _band(axes, x, y, error, **kwargs) -> None:
    axes.plot(x, y, **kwargs)
    axes.fill_between(x, y - error, y + error, color=kwargs["color"], alpha=0.15, linewidth=0)


@style
def by_position(result: dict, lengths: list[int], trained: int):
    """Held-out loss by position in the context, a line per length; bands are one standard error."""
    figure, axes = _figure()
    ends = []
    for record in (record for record in result["lengths"] if record.get("loss")):
        edges = np.array(record["edges"], np.float64)
        keep = edges[1:] > 16  # the very first tokens would set the scale
        centre = np.sqrt(np.maximum(edges[:-1], 1) * edges[1:])[keep]
        y, error = numbers(record["loss"])[keep], numbers(record["error"])[keep]
        beyond = record["length"] > trained
        index = lengths.index(record["length"])
        _band(
            axes,
            centre,
            y,
            np.nan_to_num(error),
            color=colour_of(record["length"], lengths),
            marker=MARKERS[index % len(MARKERS)],
            linestyle="--" if beyond else "-",
            label=f"{record['length']:,}" + (" (beyond training)" if beyond else ""),
        )
        ends += [int(edges[1]), record["length"]]
    _length_axis(axes.xaxis, ends)
    axes.set(xlabel="position in the context (tokens)", ylabel="held-out loss (nats per token)")
    axes.legend(title="context length")
    return figure


@style
def context_gain(result: dict, lengths: list[int], trained: int):
    """Loss with a shortened context minus with the full one, on the same tokens; bars are one standard error."""
    figure, axes = _figure()
    contexts = []
    for record in (record for record in result["lengths"] if record.get("gain")):
        beyond = record["length"] > trained
        index = lengths.index(record["length"])
        gain, error = numbers(record["gain"]), np.nan_to_num(numbers(record["error"]))
        axes.errorbar(
            record["contexts"],
            gain,
            error,
            color=colour_of(record["length"], lengths),
            capsize=2,
            marker=MARKERS[index % len(MARKERS)],
            linestyle="--" if beyond else "-",
            elinewidth=1,
            label=f"{record['length']:,}" + (" (beyond training)" if beyond else ""),
        )
        contexts += record["contexts"]
    axes.axhline(0, color=MUTED, linewidth=1)
    _length_axis(axes.xaxis, contexts)
    axes.set(xlabel="context given (tokens)", ylabel="loss above full context (nats per token)")
    axes.legend(title="full context")
    return figure


@style
def passkey(result: dict, trained: int):
    """A heatmap, depth by length: the share of the digits found, and below it the gain in nats per digit token."""
    figure, axes = _figure()
    lengths, depths = result["lengths"], result["depths"]
    share, gain = (np.array(result["grid"][name], np.float64) for name in ("accuracy", "gain"))
    mesh = axes.pcolormesh(np.ma.masked_invalid(share), cmap="viridis", vmin=0, vmax=1, edgecolors=CARD, linewidth=1.5)
    for (row, col), value in np.ndenumerate(share):
        if np.isnan(value):
            axes.text(col + 0.5, row + 0.5, "too short", ha="center", va="center", color=MUTED, fontsize=7)
            continue
        worth = f"{gain[row, col]:+z.2f}" if np.isfinite(gain[row, col]) else "?"
        axes.text(
            col + 0.5,
            row + 0.5,
            f"{value:.0%}\n{worth}",
            ha="center",
            va="center",
            fontsize=8,
            color="#fffffe" if value < 0.6 else "#000001",
        )
    axes.set_xticks(np.arange(len(lengths)) + 0.5, [f"{length:,}" for length in lengths])
    axes.set_yticks(np.arange(len(depths)) + 0.5, [f"{depth:.0%}" for depth in depths])
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set(xlabel="context length (tokens)", ylabel="depth of the number in the text")
    within = sum(length <= trained for length in lengths)
    if within < len(lengths):
        axes.axvline(within, color="#d0342c", linewidth=2, linestyle=(0, (3, 2)))
        axes.set_title("beyond training →" if within else "all beyond training", loc="right", color="#d0342c")
    bar = figure.colorbar(mesh, ax=axes, format=lambda value, _: f"{value:.0%}")
    bar.set_label("digits found", color=MUTED)
    if result["chance"] is not None:
        bar.ax.axhline(result["chance"], color="#d0342c", linewidth=2)
        bar.set_label(f"digits found (line: chance {result['chance']:.0%})", color=MUTED)
    bar.outline.set_visible(False)
    return figure


@style
def speed(steps: list[dict], stages: list[dict], lengths: list[int]):
    """Two panels by stage: the median tokens per second, and the share of each batch that is padding."""
    figure, (left, right) = _figure(columns=2)
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
    figure, axes = _figure()
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


@style
def extension(result: dict):
    """Heatmaps of the share of values recalled: method by length, then at each length method by depth of the needle."""
    from matplotlib.figure import Figure

    records, lengths = result["records"], result["lengths"]
    figure = Figure(figsize=(4.2 + 1.5 * len(lengths), 1.4 + 0.28 * len(records)), layout="constrained")
    overall, *by_depth = figure.subplots(
        1, 1 + len(lengths), sharey=True, width_ratios=[0.75 * len(lengths)] + [1] * len(lengths)
    )
    share = np.array([record["accuracy"] for record in records])
    mesh = _shares(overall, share)
    for (row, col), value in np.ndenumerate(share):
        overall.text(
            col + 0.5,
            row + 0.5,
            f"{100 * value:.0f}",
            ha="center",
            va="center",
            fontsize=8,
            color="#fffffe" if value < 0.6 else "#000001",
        )
    overall.set_xticks(np.arange(len(lengths)) + 0.5, [f"{length:,}" for length in lengths])
    names = [record["name"] + ("" if record["how"] == "as trained" else f", {record['how']}") for record in records]
    overall.set_yticks(np.arange(len(records)) + 0.5, names)
    overall.set(xlabel="length (tokens)", title="% of the values recalled")
    overall.invert_yaxis()
    for i, (axes, length) in enumerate(zip(by_depth, lengths, strict=True)):
        cells = [record["cells"][i] for record in records]
        _shares(
            axes,
            np.array(
                [[cell["right"] / cell["asked"] if cell["asked"] else np.nan for cell in parts] for parts in cells]
            ),
        )
        axes.set_xticks([0, len(cells[0])], ["start", "end"])
        axes.set(xlabel="depth", title=f"{length:,}")
    bar = figure.colorbar(mesh, ax=[overall, *by_depth], format=lambda value, _: f"{value:.0%}")
    bar.ax.axhline(result["chance"], color="#d0342c", linewidth=2)
    bar.set_label(f"recalled (line: chance {result['chance']:.0%})", color=MUTED)
    bar.outline.set_visible(False)
    return figure


def _shares(axes, values: np.ndarray):
    """A heatmap of shares, a row per method."""
    axes.grid(False)
    axes.tick_params(length=0)
    return axes.pcolormesh(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, edgecolors=CARD, linewidth=0.8)
