"""The pictures of experiments.extend: what each position method gets right, or loses, by length and depth."""

import numpy as np

from longctx.evals.drawing import PALETTE, heat, ink_on, length_axis, numbers, share_bar, style
from longctx.evals.tasks.by_position import FIRST_BUCKET, bucket_edges


def extension(task: dict):
    """The picture of a task's results, as experiments.extend writes them."""
    return shares(task) if task["chance"] is not None else losses(task)


@style
def shares(task: dict):
    """Heatmaps of the share of right answers: method by length, then at each length method by depth of the needle."""
    from matplotlib.figure import Figure

    records, lengths = task["records"], task["lengths"]
    figure = Figure(figsize=(4.2 + 1.5 * len(lengths), 1.4 + 0.28 * len(records)), layout="constrained")
    overall, *by_depth = figure.subplots(
        1, 1 + len(lengths), sharey=True, width_ratios=[0.75 * len(lengths)] + [1] * len(lengths)
    )
    share = np.array([numbers(record["value"]) for record in records])
    mesh = heat(overall, share, 0.8)
    for (row, col), value in np.ndenumerate(share):
        words = "-" if np.isnan(value) else f"{100 * value:.0f}"
        overall.text(col + 0.5, row + 0.5, words, ha="center", va="center", fontsize=8, color=ink_on(value))
    overall.set_xticks(np.arange(len(lengths)) + 0.5, [f"{length:,}" for length in lengths])
    overall.set_yticks(np.arange(len(records)) + 0.5, list(map(_name, records)))
    overall.set(xlabel="length (tokens)", title="% right")
    overall.invert_yaxis()
    for i, (axes, length) in enumerate(zip(by_depth, lengths, strict=True)):
        cells = [record["cells"][i] for record in records]
        depths = max((len(cell["asked"]) for cell in cells if cell), default=1)
        heat(axes, np.array([_by_depth(cell, depths) for cell in cells]), 0.8)
        axes.set_xticks([0, depths], ["start", "end"])
        axes.set(xlabel="depth", title=f"{length:,}")
    share_bar(figure, mesh, [overall, *by_depth], f"{task['name']}, right", task["chance"])
    return figure


def _by_depth(cell: dict | None, depths: int) -> np.ndarray:
    """The share of right answers by depth, NaN where nothing was asked."""
    if cell is None:
        return np.full(depths, np.nan)
    asked, right = np.array(cell["asked"], float), np.array(cell["right"], float)
    return np.divide(right, asked, out=np.full(len(asked), np.nan), where=asked > 0)


@style
def losses(task: dict):
    """Held-out loss by position in the context: a column per length, a line per method, means over the windows."""
    from matplotlib.figure import Figure

    lengths = [n for i, n in enumerate(task["lengths"]) if any(record["cells"][i] for record in task["records"])]
    figure = Figure(figsize=(1.2 + 2.6 * max(1, len(lengths)), 3.6), layout="constrained")
    every = figure.subplots(1, max(1, len(lengths)), sharey=True, squeeze=False)[0]
    for axes, length in zip(every, lengths, strict=False):
        edges, i = np.array(bucket_edges(length)), task["lengths"].index(length)
        for number, record in enumerate(task["records"]):
            if cell := record["cells"][i]:
                middle = np.sqrt(np.maximum(edges[:-1], 1) * edges[1:])
                mean = np.mean([numbers(row) for row in cell["loss"]], axis=0)
                look = {"color": PALETTE[number % len(PALETTE)], "linestyle": "-" if number < len(PALETTE) else "--"}
                axes.plot(middle, mean, label=_name(record), **look)
        length_axis(axes.xaxis, [FIRST_BUCKET, length])
        axes.set(xlabel="position (tokens)", title=f"{length:,}")
    every[0].set_ylabel("held-out loss (nats per token)")
    every[-1].legend(fontsize=7)
    return figure


def _name(record: dict) -> str:
    return record["name"] + ("" if record["how"] == "as trained" else f", {record['how']}")
