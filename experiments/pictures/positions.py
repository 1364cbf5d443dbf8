"""Pictures of position methods: what a RoPE scaling does to each frequency, and by which distances a method rotates."""

import numpy as np

from longctx.config import RopeConfig
from longctx.evals.drawing import INK, MUTED, PALETTE, SIZE, count, style
from longctx.positions import api, methods


def _panels(columns: int, height: float = 1.0):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0] * (1 if columns == 1 else 1.7), SIZE[1] * height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


@style
def wavelengths(ropes: dict[str, RopeConfig], head_dim: int, trained: int, target: int):
    """Tokens per turn of every pair of dimensions, by scaling, beside the trained and the target length.

    A wavelength above the trained length is one whose later angles no training has seen. Right: each frequency over
    that of the first entry of `ropes`; 1 is untouched, trained / target is interpolated.
    """
    figure, (left, right) = _panels(2)
    found = {name: api.frequencies(rope, head_dim, target)[0] for name, rope in ropes.items()}
    first = next(iter(found.values()))
    for (name, turns), colour in zip(found.items(), PALETTE, strict=False):
        left.semilogy(2 * np.pi / turns, color=colour, label=name)
        right.semilogy(turns / first, color=colour, label=name)
    for length, word in ((trained, "trained"), (target, "target")):
        left.axhline(length, color=INK, linestyle=(0, (3, 2)), linewidth=1)
        left.annotate(f"{word}: {count(length)}", (0, length), (2, 3), textcoords="offset points", fontsize=8)
    right.axhline(trained / target, color=MUTED, linestyle=(0, (3, 2)), linewidth=1)
    left.set(xlabel="pair of dimensions", ylabel="tokens per turn", title="wavelengths")
    right.set(xlabel="pair of dimensions", title=f"frequency over that of {next(iter(found))}")
    right.legend()
    return figure


def distances(position: str, length: int) -> np.ndarray:
    """float64 [length, length]: the distance that a method rotates query m and key n by; NaN where m does not see n."""
    from pallas_kernels.masks import Causal, TokenInfo, visible

    at = np.arange(length, dtype=np.int32)
    tokens = TokenInfo(at, np.ones_like(at))
    result = np.full((length, length), np.nan)
    for part in methods.parse(position).parts():
        apart = np.asarray(part.query(at))[:, None] - np.asarray(part.key(at))[None]
        see = np.asarray(visible(Causal() & part.mask, tokens, tokens))
        result[see] = apart[see] / part.divisor
    return result


@style
def distance_maps(positions: list[str], length: int, trained: int):
    """A panel for each method: the distance by which every pair is rotated; red where no training has seen it."""
    from matplotlib.colors import ListedColormap

    figure, panels = _panels(len(positions), 0.75)
    for axes, position in zip(panels, positions, strict=True):
        apart = distances(position, length)
        mesh = axes.imshow(apart, cmap="viridis", vmin=0, vmax=trained)
        axes.imshow(np.where(apart >= trained, 1.0, np.nan), cmap=ListedColormap(["#d0342c"]))
        axes.set(title=position, xlabel="key")
        axes.grid(False)
    panels[0].set_ylabel("query")
    figure.colorbar(mesh, ax=panels, label="distance (red: beyond training)")
    return figure
