"""The picture of experiments.data: which tokens of a row see which, and the schedule over the steps."""

from collections.abc import Sequence

import numpy as np

from longctx.evals.drawing import ALARM, PALETTE, SIZE, count, style

POINTS = 512  # tokens of a row that are drawn, at most


def seen(mask: str, row: dict[str, np.ndarray]) -> np.ndarray:
    """bool [n, n]: whether query m sees key n, of up to POINTS tokens spread over the row."""
    from pallas_kernels import masks

    every = -(-len(row["segments"]) // POINTS)
    tokens = masks.TokenInfo(row["positions"][::every], row["segments"][::every])
    return np.asarray(masks.visible(masks.parse(mask) & masks.Segments(), tokens, tokens))


@style
def feed(config, stages, batch: dict[str, np.ndarray], buckets: Sequence[np.ndarray | None]):
    """Left the pairs that the widest mask of the layers has in the row of most documents; right the length of the rows,
    the window (stages[i].window), the lengths that are fed in an order (stages[i].order) and the learning rate at each
    step.

    batch: of the first stage, arrays [B, T] as PackedRows.gather documents them. buckets: of each stage the tokens of
    longctx.data.orders.Ordered, or None.
    """
    from matplotlib.figure import Figure

    from longctx import optim
    from longctx.data import windows

    figure = Figure(figsize=(2 * SIZE[0], SIZE[1]), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    row = {name: array[batch["segments"].max(1).argmax()] for name, array in batch.items()}
    pairs = {kind.mask: seen(kind.mask, row) for kind in config.model.kinds}
    mask, length = max(pairs, key=lambda mask: pairs[mask].sum()), len(row["segments"])
    left.imshow(pairs[mask], cmap="Blues", extent=(0, length, length, 0), vmin=0, vmax=1.3, aspect="equal")
    left.set(title=mask, xlabel="key", ylabel="query")
    left.grid(False)
    steps = np.arange(stages[-1].end_step)
    lengths = np.concatenate([np.full(stage.steps, stage.seq_len) for stage in stages])
    right.step(steps, lengths, where="post", color=PALETTE[0])
    shown = np.concatenate([windows.table(stage) for stage in stages])
    if (shown < lengths).any():
        right.step(steps, shown, where="post", color=PALETTE[2], label="window")
    ticks = {*lengths.tolist(), *_buckets(right, stages, buckets)}
    if len(right.get_lines()) > 1:
        right.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)  # above: dots may lie anywhere
    right.set(xlabel="step", ylabel="tokens of a row", yscale="log")
    right.set_yticks(sorted(ticks), [count(tick) for tick in sorted(ticks)])
    right.minorticks_off()
    rate = right.twinx()
    rate.plot(steps, np.asarray(optim.learning_rate(config.optim, stages)(steps)), color=ALARM, linewidth=1)
    rate.set_ylabel("learning rate", color=ALARM)
    rate.grid(False)
    return figure


def _buckets(axes, stages, buckets: Sequence[np.ndarray | None]) -> set[int]:
    """Draws a dot for each step of the stages that have an order, at the length of its documents. Returns the lengths
    that are there."""
    ordered = [(stage.first_step, tokens) for stage, tokens in zip(stages, buckets, strict=True) if tokens is not None]
    if not ordered:
        return set()
    steps = np.concatenate([first + np.arange(len(tokens)) for first, tokens in ordered])
    tokens = np.concatenate([tokens for _, tokens in ordered])
    axes.plot(steps, tokens, ".", color=PALETTE[1], markersize=3, label="longest documents, from")
    return set(tokens.tolist())
