"""The picture of experiments.bench.curricula: the loss by FLOPs, and by position against the first arm."""

import math

import numpy as np

from longctx.evals.drawing import ALARM, INK, MARKERS, MUTED, PALETTE, SIZE, length_axis, style

BASE = "concat_and_cut"  # what every other arm is compared with
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5% quantiles of Student's t, by how many values there are
COLOURS = INK, *PALETTE, MUTED, "#c9a66b"
PACKINGS = "no borders", "best_fit", "decomposition uniform", "decomposition grow_p2"  # the others grow their rows


def values(records: list[dict], arm: str, read) -> dict[int, np.ndarray]:
    """What read(record) gives, of every seed of an arm."""
    return {record["seed"]: np.asarray(read(record), float) for record in records if record["arm"] == arm}


def interval(found) -> tuple[np.ndarray, np.ndarray]:
    """(mean, half of its 95% interval by Student's t) of independent values along the first axis; NaN for one."""
    found = np.asarray(found, float)
    count = len(found)
    if count not in STUDENT:
        return found.mean(0), np.full(found.shape[1:], math.nan)
    return found.mean(0), STUDENT[count] * found.std(0, ddof=1) / math.sqrt(count)


def differences(records: list[dict], arm: str, read, base: str = BASE) -> np.ndarray:
    """What read(record) gives of an arm, less that of another from the same seed: [seeds, ...]."""
    ours, theirs = values(records, arm, read), values(records, base, read)
    return np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def mean_loss(record: dict) -> float:
    """The held-out loss of a training, in nats per byte."""
    return record["mean"]


def losses(record: dict) -> list[float]:
    """The held-out loss in every bin of positions."""
    return record["loss"]


def needed(record: dict, kind: str = "needed") -> float:
    """FLOPs of a training; kind: a name that `flops` gives."""
    return record["flops"][kind]


def names(records: list[dict]) -> list[str]:
    """The arms of records, in their order."""
    return list(dict.fromkeys(record["arm"] for record in records))


@style
def curricula(content: dict):
    """Left the held-out loss by FLOPs of training; then how much more it is than that of BASE by position, of ways to
    fill rows and of ways to lengthen them. Bars are the standard deviation of seeds, or of their paired differences.

    content: what experiments.bench.curricula writes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * SIZE[0] * 0.8, SIZE[1] * 1.15), layout="constrained")
    left, *others = figure.subplots(1, 3)
    present = names(content["records"])
    looks = {name: look(number) for number, name in enumerate(present)}
    _by_flops(left, content["records"], looks)
    groups = ([n for n in present if n in PACKINGS], [n for n in present if n not in (*PACKINGS, BASE)])
    titles = "how rows are filled", "how pieces and rows grow"
    for axes, group, title in zip(others, groups, titles, strict=True):
        _by_position(axes, content, {name: looks[name] for name in group})
        axes.set(title=title, xlabel="position in the context (tokens)")
        axes.set_ylabel(f"loss minus that of {BASE}")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    others[1].axvline(content["size"]["short"], color=ALARM, linewidth=1, linestyle=(0, (3, 2)))
    return figure


def look(number: int) -> dict:
    """The colour and marker of an arm."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _by_flops(axes, records: list[dict], looks: dict) -> None:
    for name, of in looks.items():
        found = [*values(records, name, mean_loss).values()]
        flops = [*values(records, name, needed).values()]
        spread = np.std(found, ddof=1) if len(found) > 1 else 0.0
        axes.errorbar(np.mean(flops) / 1e12, np.mean(found), spread, label=name, linestyle="", capsize=2, **of)
    axes.set(xlabel="TFLOP of a training", ylabel="held-out loss (nats per byte)", title="all positions")


def _by_position(axes, content: dict, looks: dict) -> None:
    edges = np.array(content["edges"][1:], float)  # the very first tokens would set the scale
    centre = np.sqrt(edges[:-1] * edges[1:])
    for number, (name, of) in enumerate(looks.items()):
        found = differences(content["records"], name, losses)[:, 1:]
        spread = found.std(0, ddof=1) if len(found) > 1 else np.zeros(found.shape[1])
        place = centre * 1.06 ** (number - len(looks) / 2)
        axes.errorbar(place, found.mean(0), spread, label=name, capsize=2, linewidth=1.3, **of)
    axes.axhline(0, color=INK, linewidth=1)
    length_axis(axes.xaxis, content["edges"][1:])
