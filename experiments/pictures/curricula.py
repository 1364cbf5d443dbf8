"""The picture of experiments.bench.curricula: the loss by FLOPs, and by position against the first arm."""

import numpy as np

from experiments.bench.harness import curricula as study
from longctx.evals.drawing import INK, MARKERS, MUTED, PALETTE, SIZE, length_axis, style

PACKINGS = "no borders", "best_fit", "decomposition uniform", "decomposition grow_p2"  # the others grow their rows


@style
def curricula(content: dict):
    """Left the held-out loss by FLOPs of training; then what arms have less than the first one by position, of ways to
    fill rows and of ways to lengthen them. Bars are the standard deviation of seeds, or of their paired differences.

    content: what experiments.bench.curricula writes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * SIZE[0] * 0.85, SIZE[1] * 1.2), layout="constrained")
    left, *others = figure.subplots(1, 3)
    present = study.names(content["records"])
    looks = {name: look(number) for number, name in enumerate(present)}
    _by_flops(left, content["records"], looks)
    groups = ([n for n in present if n in PACKINGS], [n for n in present if n not in (*PACKINGS, study.BASE)])
    titles = "how rows are filled", "how rows grow"
    for axes, group, title in zip(others, groups, titles, strict=True):
        _by_position(axes, content, {name: looks[name] for name in group})
        axes.set(title=title, xlabel="position in the context (tokens)")
    limits = [min(axes.get_ylim()[0] for axes in others), max(axes.get_ylim()[1] for axes in others)]
    for axes in others:
        axes.set_ylim(limits)
    others[0].set_ylabel(f"held-out loss less that of {study.BASE}")
    return figure


def look(number: int) -> dict:
    """The colour and marker of an arm."""
    colours = INK, *PALETTE, MUTED
    return {"color": colours[number % len(colours)], "marker": MARKERS[number % len(MARKERS)]}


def _by_flops(axes, records: list[dict], looks: dict) -> None:
    for name, of in looks.items():
        found = [*study.values(records, name, study.mean_loss).values()]
        flops = [*study.values(records, name, study.needed).values()]
        spread = np.std(found, ddof=1) if len(found) > 1 else 0.0
        axes.errorbar(np.mean(flops) / 1e12, np.mean(found), spread, label=name, linestyle="", capsize=2, **of)
    axes.set(xlabel="TFLOP of a training", ylabel="held-out loss (nats per byte)", title="all positions")
    axes.legend(fontsize=7, handletextpad=0.2)


def _by_position(axes, content: dict, looks: dict) -> None:
    edges = np.array(content["edges"], float)
    centre = np.sqrt(np.maximum(edges[:-1], edges[1] / 2) * edges[1:])
    for number, (name, of) in enumerate(looks.items()):
        found = study.differences(content["records"], name, study.losses)
        spread = found.std(0, ddof=1) if len(found) > 1 else np.zeros(found.shape[1])
        place = centre * 1.06 ** (number - len(looks) / 2)
        axes.errorbar(place, found.mean(0), spread, label=name, capsize=2, linewidth=1.3, **of)
    axes.axhline(0, color=INK, linewidth=1)
    length_axis(axes.xaxis, content["edges"][1:])
    axes.legend(fontsize=7)
