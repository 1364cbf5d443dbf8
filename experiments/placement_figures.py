"""Pictures of context parallelism: which shard holds which token, and which pairs of blocks are computed at which hop."""
import numpy as np

from experiments.figures import CARD, INK, PALETTE, SIZE, style
from longctx import balance, layouts
from pallas_kernels import masks


def packed(lengths: list[int]) -> dict[str, np.ndarray]:
    """positions and segments int32 [1, T] of a row of documents of these lengths."""
    return {"positions": np.concatenate([np.arange(n) for n in lengths])[None].astype(np.int32),
            "segments": np.repeat(np.arange(len(lengths)) + 1, lengths)[None].astype(np.int32)}


@style
def holders(names: list[str], lengths: list[int], shards: int):
    """A strip for each layout: the row in its own order, each token in the colour of the shard that holds it."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    figure = Figure(figsize=(1.7 * SIZE[0], 0.5 * len(names) + 0.6), layout="constrained")
    segments = packed(lengths)["segments"]
    colours = ListedColormap(PALETTE[:shards])
    for axes, name in zip(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True):
        order = layouts.permutation(name, segments, shards)
        owner = np.empty(segments.shape[1])
        owner[order[0]] = np.repeat(np.arange(shards), segments.shape[1] // shards)
        axes.imshow(owner[None], aspect="auto", cmap=colours, vmin=-0.5, vmax=shards - 0.5, interpolation="nearest")
        for end in np.cumsum(lengths)[:-1]:
            axes.axvline(end - 0.5, color=CARD, linewidth=2)
        axes.set(yticks=[])
        axes.set_ylabel(name, rotation=0, horizontalalignment="right", verticalalignment="center")
        axes.grid(visible=False)
    axes.set_xlabel("token of the row; white: where a document ends")
    return figure


def hops(name: str, lengths: list[int], shards: int, block: int) -> np.ndarray:
    """float64 [T / block, T / block]: the hop of a ring at which blocks of queries meet those of keys, as they lie on
    the shards; NaN where no query sees a key."""
    laid = layouts.lay_out(packed(lengths), name, shards)
    ranges = masks.block_ranges(masks.Tokens(laid["positions"], laid["segments"]), block)
    of_q, of_k = (masks.Ranges(*(np.expand_dims(np.asarray(x[0]), axis) for x in ranges)) for axis in (1, 0))
    shard = np.arange(len(ranges[0][0])) * block * shards // laid["segments"].shape[1]
    nothing = np.asarray(masks.nothing(masks.Causal() & masks.Segments(), of_q, of_k))
    return np.where(nothing, np.nan, (shard[:, None] - shard[None]) % shards)


@style
def hop_maps(names: list[str], lengths: list[int], shards: int, block: int):
    """A panel for each layout: the hop at which every pair of blocks is computed, blank where none is; above it I, the
    busiest shard's work by the mean, and J, what a ring pays for its steps in common."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    figure = Figure(figsize=(1.7 * SIZE[0], 1.2 * SIZE[1] * 2 / len(names)), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        laid = layouts.lay_out(packed(lengths), name, shards)
        found = balance.measure(laid["positions"], laid["segments"], shards, block=block)
        shown = axes.imshow(hops(name, lengths, shards, block), cmap=ListedColormap(PALETTE[:shards]), vmin=-0.5,
                            vmax=shards - 0.5, interpolation="nearest")
        edges = np.arange(1, shards) * sum(lengths) / shards / block - 0.5
        axes.hlines(edges, *axes.get_xlim(), color=INK, linewidth=0.7)
        axes.set(title=f"{name}: I {found.work:.2f}, J {found.lockstep:.2f}", xlabel="keys, by shard", xticks=[],
                 yticks=[])
        axes.grid(visible=False)
    panels[0].set_ylabel("queries, by shard")
    figure.colorbar(shown, ax=panels, ticks=range(shards), label="hop", shrink=0.8)
    return figure
