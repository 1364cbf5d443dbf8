"""The picture of experiments.extend: which share of the values each position method recalls, by length and depth."""

import numpy as np

from longctx.evals.drawing import CARD, MUTED, style


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
