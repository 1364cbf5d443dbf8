"""The picture of experiments.bench.claims: classes in a context, chains of facts, and where a fact stands."""

import numpy as np

from longctx.evals.drawing import MARKERS, PALETTE, SIZE, length_axis, style

DRAWS, PARTS = 3, 5  # of the samples; of a context, by which answers are counted
CLASSES = "icl_10", "icl_50", "icl_200"
THREADS = "threads_needle", "threads_forward"
FACTS = "niah_single_2", "json_kv", "threads_needle"  # one of which stands anywhere


def share(records: list[dict], **of) -> float:
    """The share of right answers in the records whose fields are as given; NaN where there are none."""
    some = [r for r in records if all(r[name] == value for name, value in of.items())]
    asked = sum(sum(r["asked"]) for r in some)
    return sum(sum(r["right"]) for r in some) / asked if asked else float("nan")


@style
def claims(records: list[dict]):
    """Left in-context learning by its classes, in the middle one fact and a chain of five, both by length; right single
    facts by where they stand, a line for each length. Bars are the least and the most of the draws.

    records: of experiments.bench.claims.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * SIZE[0] * 0.8, SIZE[1]), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    lengths = sorted({record["length"] for record in records})
    for axes, tasks in ((left, CLASSES), (middle, THREADS)):
        for number, task in enumerate(tasks):
            draws = np.array([[share(records, task=task, length=n, draw=d) for d in range(DRAWS)] for n in lengths])
            mean = np.array([share(records, task=task, length=n) for n in lengths])
            bars = np.abs([mean - draws.min(1), draws.max(1) - mean])
            look = {"color": PALETTE[number], "marker": MARKERS[number], "capsize": 2}
            axes.errorbar(np.array(lengths) * 1.03**number, mean, bars, label=task, **look)
        length_axis(axes.xaxis, lengths)
        axes.set(xlabel="context length (tokens)")
        axes.legend()
    for number, length in enumerate(lengths):
        of = [record for record in records if record["task"] in FACTS and record["length"] == length]
        asked, found = (np.sum([record[name][:PARTS] for record in of], 0) for name in ("asked", "right"))
        middles = (np.arange(PARTS) + 0.5) / PARTS
        look = {"color": PALETTE[number], "marker": MARKERS[number], "label": f"{length:,}"}
        right.plot(middles, found / np.maximum(asked, 1), **look)
    right.set(xlabel="where the fact stands (0: start)", title=", ".join(FACTS), xlim=(0, 1))
    right.legend()
    left.set(ylabel="right answers", ylim=(-0.02, 1.02))
    return figure
