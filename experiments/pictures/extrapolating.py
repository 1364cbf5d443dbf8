"""The picture of experiments.bench.extrapolate: loss of the same targets behind more and more text."""

import numpy as np

from longctx.evals.drawing import ALARM, MARKERS, PALETTE, SIZE, length_axis, style


@style
def extrapolating(records: list[dict]):
    """Left the loss by the tokens that are read, right its change from that at the trained length; a thin line for
    each seed and a thick one for their mean.

    records: of experiments.bench.extrapolate.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * SIZE[0], SIZE[1]), layout="constrained")
    axes = figure.subplots(1, 2)
    lengths = records[0]["lengths"]
    for number, position in enumerate(dict.fromkeys(record["position"] for record in records)):
        loss = np.array([record["loss"] for record in records if record["position"] == position])
        look = {"color": PALETTE[number % len(PALETTE)]}
        for part, values in zip(axes, (loss, loss - loss[:, :1]), strict=True):
            part.plot(lengths, values.T, linewidth=0.7, alpha=0.6, **look)
            part.plot(lengths, values.mean(0), marker=MARKERS[number % len(MARKERS)], label=position, **look)
    for part in axes:
        part.axvline(lengths[0], color=ALARM, linestyle=(0, (3, 2)), linewidth=1)
        length_axis(part.xaxis, lengths)
        part.set(xlabel="tokens read")
    axes[0].set(ylabel="loss of the last targets (nats)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    axes[1].set(ylabel="change from the trained length (nats)")
    return figure
