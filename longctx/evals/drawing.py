"""The style of every figure, and the parts that several of them draw. Imports matplotlib only when something is drawn.

Colours that carry no data are the keys of THEME: as PNG they suit paper, and a page swaps them for CSS variables, so
that it can show the same picture on a dark background. Data colours read on both.
"""

import functools
from typing import Any

import numpy as np

SIZE = (5.4, 3.5)  # inches; half a page wide, legible on a phone
THEME = {"#1b2430": "--ink", "#5d6877": "--muted", "#dde2e9": "--line", "#fefefe": "--card"}
INK, MUTED, LINE, CARD = THEME
PALETTE = ("#2f7fd1", "#e07b18", "#1a9a74", "#c04f9e", "#7c6ff0", "#c2463a", "#3aa7b8", "#8f8a1f")
MARKERS = "osD^vPX*"
ALARM = "#d0342c"
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
    """A drawing function that runs under STYLE and matplotlib's defaults."""

    @functools.wraps(draw)
    def styled(*args):
        import matplotlib

        # but for its backend: setting that, even to what it is, imports pyplot, a second that no figure here needs
        rc: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
        rc.update(STYLE)
        with matplotlib.rc_context(rc):
            return draw(*args)

    return styled


def new_figure(columns: int = 1):
    """(a figure of SIZE, its axes: one, or an array of as many as there are columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots(1, columns)


def numbers(values) -> np.ndarray:
    """The values as float64, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def count(tokens: float) -> str:
    """'512', '8,192', '1.2M', '3.4B': a number of tokens for an axis or a headline."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:,.0f}" if tokens < 1e4 else f"{tokens / 1e3:.3g}k"


def colour_of(length: int, lengths: list[int]) -> str:
    """The colour of a context length, by its place among all `lengths` that a report shows."""
    return PALETTE[lengths.index(length) % len(PALETTE)]


def line_of(length: int, lengths: list[int], trained: int) -> dict:
    """Keywords of axes.plot for the line of a context length: dashed where it is beyond the length trained at."""
    beyond = length > trained
    return {
        "color": colour_of(length, lengths),
        "marker": MARKERS[lengths.index(length) % len(MARKERS)],
        "linestyle": "--" if beyond else "-",
        "label": f"{length:,}" + (" (beyond training)" if beyond else ""),
    }


def length_axis(axis, values: list[int]) -> None:
    """A log2 axis over token counts, ticked at powers of four or so with plain numbers."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axis.axes.set_xscale("log", base=2)
    powers = [2**k for k in range(1, 31) if min(values) <= 2**k <= max(values)] or sorted(set(values))
    powers = powers[::-1][:: max(1, -(-len(powers) // 7))][::-1]
    axis.set_ticks(powers, [count(value) if value >= 1 << 20 else f"{value:,}" for value in powers])
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def end_of_training(axes, lengths: list[int], trained: int) -> None:
    """A line where `trained` tokens end, if one of the context lengths on the x axis is beyond."""
    if max(lengths) > trained:
        axes.axvline(trained, color=ALARM, linewidth=1.5, linestyle="--", label="longest trained at")


def band(axes, x, y, error, **kwargs) -> None:
    """A line with a band of one `error` on both sides; kwargs: of axes.plot, `color` among them."""
    axes.plot(x, y, **kwargs)
    axes.fill_between(x, y - error, y + error, color=kwargs["color"], alpha=0.15, linewidth=0)


def shares(figure, axes, share: np.ndarray, names: list[str], lengths: list[int], trained: int, what: str, chance):
    """A heatmap of shares [names, lengths], NaN where there is none, with a line where `trained` tokens end.

    what: of which things they are shares, for the colour bar; chance: a share that is marked there, or None.
    """
    mesh = heat(axes, share, 1.5)
    axes.set_xticks(np.arange(len(lengths)) + 0.5, [f"{length:,}" for length in lengths])
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    axes.invert_yaxis()
    axes.set_xlabel("context length (tokens)")
    within = sum(length <= trained for length in lengths)
    if within < len(lengths):
        axes.axvline(within, color=ALARM, linewidth=2, linestyle=(0, (3, 2)))
        axes.set_title("beyond training →" if within else "all beyond training", loc="right", color=ALARM)
    share_bar(figure, mesh, axes, what, chance)


def heat(axes, share: np.ndarray, linewidth: float):
    """The cells of a heatmap of shares, NaN where there is none, and nothing around them."""
    axes.grid(False)
    axes.tick_params(length=0)
    masked = np.ma.masked_invalid(share)
    return axes.pcolormesh(masked, cmap="viridis", vmin=0, vmax=1, edgecolors=CARD, linewidth=linewidth)


def share_bar(figure, mesh, axes, what: str, chance: float | None) -> None:
    """The colour bar beside the axes of a heatmap of shares; see `shares`."""
    bar = figure.colorbar(mesh, ax=axes, format=lambda value, _: f"{value:.0%}")
    bar.set_label(what, color=MUTED)
    if chance is not None:
        bar.ax.axhline(chance, color=ALARM, linewidth=2)
        bar.set_label(f"{what} (line: chance {chance:.0%})", color=MUTED)
    bar.outline.set_visible(False)


def ink_on(share: float) -> str:
    """A colour of words that reads on the cell of a share."""
    return "#fffffe" if share < 0.6 else "#000001"
