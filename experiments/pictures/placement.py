"""Pictures of context parallelism: which device holds which token, which pairs of tokens it computes at which hop of a
ring, how long the others wait for it then, and what leaves it."""

import numpy as np

from experiments.meter.lengths import documents, laid_out, row
from experiments.settings.models import MODELS
from longctx import balance, layouts
from longctx.config import ModelConfig
from longctx.context_parallel import api as context_parallel
from longctx.context_parallel.cost import Call
from longctx.context_parallel.plan import CallPlan
from longctx.evals.drawing import CARD, INK, MARKERS, MUTED, PALETTE, SIZE, style
from pallas_kernels import masks

WIDTH, NODE, BLOCK = 1.7 * SIZE[0], 8, 256


# ---- who holds which token


@style
def holders(names: list[str], lengths: list[int], shards: int):
    """A strip for each layout: a row of documents in its own order, each token in the colour of its device."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.42 * len(names) + 0.9), layout="constrained")
    segments = row(lengths)["segments"]
    for axes, name in zip(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True):
        axes.imshow(
            layouts.parse(name).owner(segments, shards, layouts.CAUSAL),
            aspect="auto",
            vmin=-0.5,
            vmax=shards - 0.5,
            cmap=ListedColormap(PALETTE[:shards]),
            interpolation="nearest",
        )
        for end in np.cumsum(lengths)[:-1]:
            axes.axvline(end - 0.5, color=CARD, linewidth=3)
        axes.set_yticks([0], [name])
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    axes.set_xlabel("token of the row; white gaps: a document ends")
    _legend(figure, {f"device {shard}": PALETTE[shard] for shard in range(shards)})
    return figure


# ---- what a ring computes, and when


def hops(name: str, lengths: list[int], shards: int, block: int) -> np.ndarray:
    """float64 [T / block, T / block]: the hop of a ring at which blocks of queries meet those of keys, in the order of
    a layout; NaN where no query sees a key. T: tokens of a row of documents of these lengths."""
    laid, _ = laid_out(row(lengths), name, shards)
    ranges = masks.block_ranges(masks.TokenInfo(laid["positions"], laid["segments"]), block)
    of_q, of_k = (masks.Ranges(*(np.expand_dims(np.asarray(x[0]), axis) for x in ranges)) for axis in (1, 0))
    nothing = np.asarray(masks.nothing(masks.Causal() & masks.Segments(), of_q, of_k))
    shard = np.arange(len(nothing)) * shards // len(nothing)
    return np.where(nothing, np.nan, (shard[:, None] - shard) % shards)


def turns(name: str, lengths: list[int], shards: int) -> tuple[np.ndarray, np.ndarray]:
    """(when a hop begins [hops], how long it takes each device [hops, C]), float64: the mean device's work takes 1.

    A hop begins when the busiest device is done with the one before.
    """
    laid, _ = laid_out(row(lengths), name, shards)
    work = balance.by_hop(balance.work(**laid, shards=shards, reach=None))
    work *= shards / work.sum()
    return np.cumsum(work.max(axis=1)) - work.max(axis=1), work


@style
def rings(names: list[str], lengths: list[int], shards: int, block: int):
    """Two panels for each layout, colours of devices, lighter from hop to hop. Above: which pairs of blocks each device
    computes. Below: when; the ring is done at J, and without its lock step the busiest device would be at I."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.05 + WIDTH / len(names) * 1.3), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False, height_ratios=[2, 1])
    last = max(begin[-1] + work[-1].max() for begin, work in (turns(name, lengths, shards) for name in names))
    for name, above, below in zip(names, *panels, strict=True):
        _map(above, hops(name, lengths, shards, block), shards)
        begin, work = turns(name, lengths, shards)
        for hop, shard in np.ndindex(work.shape):
            below.barh(shard, work[hop, shard], left=begin[hop], height=0.8, color=_shade(shard, hop, shards))
        below.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
        below.set(
            xlim=(0, last),
            ylim=(shards - 0.4, -0.6),
            yticks=[],
            xlabel=f"I = {work.sum(axis=0).max():.2f}, J = {begin[-1] + work[-1].max():.2f}",
        )
        below.grid(visible=False)
        above.set_title(name)
    panels[0, 0].set_ylabel("queries, by device")
    panels[1, 0].set_ylabel("busy")
    _legend(figure, {f"hop {hop}" + ", own keys" * (hop == 0): _shade(None, hop, shards) for hop in range(shards)})
    return figure


def _map(axes, found, shards):
    blocks = len(found)
    image = np.ones((blocks, blocks, 4))
    for q, k in np.argwhere(np.isfinite(found)):
        image[q, k, :3] = _shade(q * shards // blocks, found[q, k], shards)
    axes.imshow(image, interpolation="nearest", aspect="auto")
    edges, middles = (np.arange(shards) + part for part in (0, 0.5))
    for line in (axes.axhline, axes.axvline):
        for edge in edges[1:]:
            line(edge * blocks / shards - 0.5, color=MUTED, linewidth=0.6)
    for ticks, labels in ((axes.set_xticks, axes.get_xticklabels), (axes.set_yticks, axes.get_yticklabels)):
        ticks(middles * blocks / shards - 0.5, range(shards))
        for shard, label in enumerate(labels()):
            label.set(color=PALETTE[shard], fontweight="bold")
    axes.tick_params(length=0)
    axes.set_xlabel("keys, by device")
    axes.grid(visible=False)


def _shade(shard: int | None, hop: int, shards: int) -> np.ndarray:
    """The colour of a device (None: of ink), paler from hop to hop."""
    from matplotlib.colors import to_rgb

    pale = 0.75 * hop / max(shards - 1, 1)
    return (1 - pale) * np.array(to_rgb(INK if shard is None else PALETTE[shard])) + pale


def _legend(figure, colours: dict):
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in colours.items()],
        loc="outside upper center",
        ncols=len(colours),
    )


# ---- what is sent


def sent(strategy: str, devices: int, tokens: int, model: str) -> float:
    """Bytes that leave each device in a layer's attention, forward and backward, in closed form: one row of `tokens`
    tokens, causal, zigzag, all in bfloat16. usp: Ulysses in nodes of NODE devices, a ring around them."""
    shape = ModelConfig(**MODELS[model])
    shards = (devices // NODE, NODE) if strategy == "usp" else (1, devices)
    plan = CallPlan(strategy, "auto", shards, shape.heads, shape.kv_heads, "zigzag", kv_grads_dtype="bfloat16")
    found = context_parallel.cost(Call(plan, masks.Causal(), 1, tokens // devices, shape.head_dim, "bfloat16"))
    return sum(one.load.bytes for one in found.exchange + found.forward + found.backward)


def sent_by_need(kind: str, devices: int, tokens: int, model: str) -> float:
    """Bytes that leave the mean device in a layer by `dispatch`, for a row of documents whose lengths are of a kind in
    lengths.KINDS."""
    laid, _ = laid_out(row(documents(kind, tokens, seed=100)), f"balanced({BLOCK})", devices)
    return balance.measure(**laid, shards=devices, block=BLOCK).received * sent("dispatch", devices, tokens, model)


@style
def bytes_sent(strategies: list[str], kinds: list[str], devices: list[int], tokens: int, model: str):
    """A line for each strategy, of one document, and for `dispatch` on documents of each kind: bytes over devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * 0.75, SIZE[1]), layout="constrained")
    axes = figure.subplots()
    heads = MODELS[model]["heads"]
    lines = {name: (sent, name, [n for n in devices if n <= heads or name != "ulysses"]) for name in strategies}
    lines |= {f"dispatch: {kind} documents": (sent_by_need, kind, devices) for kind in kinds}
    for (label, (of, name, counts)), colour, marker in zip(lines.items(), PALETTE, MARKERS, strict=False):
        axes.loglog(
            counts,
            [of(name, n, tokens, model) / 2**20 for n in counts],
            color=colour,
            marker=marker,
            linestyle="--" if of is sent_by_need else "-",
            label=label,
        )
    axes.set_xticks(devices, devices)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(xlabel="devices", ylabel="MiB leaving each, a layer")
    figure.legend(loc="outside right upper")
    return figure
