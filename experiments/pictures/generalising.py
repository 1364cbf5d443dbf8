"""The picture of experiments.bench.generalise: recall by length, and by depth of the needle beyond the trained one."""

import numpy as np

from longctx.evals.drawing import ALARM, MARKERS, PALETTE, SIZE, length_axis, style


@style
def generalising(records: list[dict]):
    """Left the share of values recalled by length, a thin line for each seed and a thick one for their mean; right
    that by depth, at twice the trained length.

    records: of experiments.bench.generalise.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * SIZE[0], SIZE[1]), layout="constrained")
    left, right = figure.subplots(1, 2)
    lengths = records[0]["lengths"]
    for number, position in enumerate(dict.fromkeys(record["position"] for record in records)):
        of = [record for record in records if record["position"] == position]
        share = np.array([record["right"] for record in of]) / np.maximum([record["asked"] for record in of], 1)
        look = {"color": PALETTE[number % len(PALETTE)]}
        whole = np.array([np.sum(record["right"], 1) / np.sum(record["asked"], 1) for record in of])
        left.plot(lengths, whole.T, linewidth=0.7, alpha=0.6, **look)
        left.plot(lengths, whole.mean(0), marker=MARKERS[number % len(MARKERS)], label=position, **look)
        depths = share[:, 1].mean(0)
        middle = (np.arange(len(depths)) + 0.5) / len(depths)
        right.plot(middle, depths, marker=MARKERS[number % len(MARKERS)], **look)
    left.axvline(lengths[0], color=ALARM, linestyle=(0, (3, 2)), linewidth=1)
    length_axis(left.xaxis, lengths)
    left.set(xlabel="context length (tokens)", ylabel="values recalled", ylim=(-0.02, 1.02))
    left.legend()
    right.set(xlabel="depth of the needle (0: start)", ylim=(-0.02, 1.02), title=f"at {lengths[1]:,} tokens")
    return figure
