"""Draws the figures of README and of docs/design.md.

python docs/figures/draw.py            # writes docs/figures/*.png
"""

import pathlib

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

HERE = pathlib.Path(__file__).parent
INK, MUTED, LINE, CARD = "#1b2430", "#5d6877", "#c9d0d9", "#fefefe"
BLUE, ORANGE, GREEN, PINK = "#2f7fd1", "#e07b18", "#1a9a74", "#c04f9e"
MONO = "DejaVu Sans Mono"


class Canvas:
    """One picture in units of `unit` inches, from (0, 0) at the lower left to (width, height)."""

    def __init__(self, width: float, height: float, unit: float = 0.5):
        self.figure = Figure(figsize=(width * unit, height * unit), facecolor=CARD)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")

    def box(self, x, y, width, height, text="", color=LINE, size=9, fill=0.13, font=None, ink=INK):
        """A rounded box with its lower left corner at (x, y) and a text in its middle."""
        style = dict(boxstyle="round,pad=0,rounding_size=0.12", linewidth=1.1)
        self.axes.add_patch(
            FancyBboxPatch((x, y), width, height, edgecolor=color, facecolor=to_rgba(color, fill), **style)
        )
        self.text(x + width / 2, y + height / 2, text, size, font=font, color=ink)

    def text(self, x, y, text, size=9, color=INK, font=None, ha="center", va="center", weight=None):
        self.axes.text(x, y, text, size=size, color=color, ha=ha, va=va, family=font, weight=weight, linespacing=1.35)

    def arrow(self, start, end, color=MUTED, bend=0.0, style="-|>", dashed=False):
        self.axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle=style,
                mutation_scale=11,
                color=color,
                linewidth=1.2,
                linestyle=(0, (4, 3)) if dashed else "-",
                connectionstyle=f"arc3,rad={bend}",
                shrinkA=1,
                shrinkB=1,
            )
        )

    def cells(self, x, y, values, size, colors):
        """A grid of squares, values[0] on top: colors[value], or nothing for 0."""
        for (row, column), value in np.ndenumerate(np.asarray(values)):
            face = to_rgba(colors[value], 0.75) if value else "none"
            corner = (x + column * size, y + (len(values) - 1 - row) * size)
            self.axes.add_patch(Rectangle(corner, size, size, facecolor=face, edgecolor=LINE, linewidth=0.5))

    def save(self, name: str) -> None:
        self.figure.savefig(HERE / f"{name}.png", dpi=160)


def merge() -> None:
    """The keys of one row in three places, a pair (out, lse) from each, and the merge of the three."""
    c = Canvas(17.6, 7.6)
    c.text(0.4, 7.15, "the keys of one row, wherever they are", 9, MUTED, ha="left")
    places = ("key blocks\non one chip", "keys on\nanother chip", "keys that are\nrotated differently")
    for i, (color, place) in enumerate(zip((BLUE, ORANGE, GREEN), places, strict=True)):
        y = 5.2 - 2.05 * i
        for j in range(4):
            c.box(0.4 + 0.62 * j, y + 0.3, 0.56, 0.9, color=color, fill=0.55)
        c.text(4.3, y + 0.75, place, 8.5, MUTED)
        c.box(6.5, y, 3.2, 1.5, f"forward(q, k{'₁₂₃'[i]}, v{'₁₂₃'[i]})", color, 8.5, font=MONO)
        c.arrow((5.8, y + 0.75), (6.5, y + 0.75), color)
        c.box(10.4, y, 2.2, 1.5, f"out{'₁₂₃'[i]}, lse{'₁₂₃'[i]}", color, 9, 0.3, MONO)
        c.arrow((9.7, y + 0.75), (10.4, y + 0.75), color)
        c.arrow((12.6, y + 0.75), (13.6, 3.9 + 0.35 * (1 - i)), color)
    c.box(13.6, 2.75, 3.6, 2.3, "merge\nin any order\n= out, lse of all keys", INK, 9, 0.05)
    c.text(8.8, 0.45, "backward of any piece needs only its own q, k, v and the row's dout, lse and delta", 8.5, MUTED)
    c.save("merge")


def attend() -> None:
    """The callback of attention: one block of the model, three owners of the tokens."""
    c = Canvas(17, 8.1)
    c.box(0.4, 0.9, 6.6, 6.8, color=LINE, fill=0.12)
    c.text(3.7, 7.3, "model/block.py: one layer, knows no other token", 8.5, MUTED)
    for y, text in ((5.9, "norm, then q, k, v projections"), (2.9, "output projection, residual"), (1.5, "norm, MLP")):
        c.box(1.0, y, 5.4, 0.95, text, BLUE, 8.5)
    c.box(1.0, 4.3, 5.4, 1.1, "attend(q, k, v, scale, soft_cap, sinks)", ORANGE, 7.5, 0.25, MONO)
    for start, end in (((3.7, 5.9), (3.7, 5.4)), ((3.7, 4.3), (3.7, 3.85)), ((3.7, 2.9), (3.7, 2.45))):
        c.arrow(start, end)
    owners = (
        ("training", "rotate, then the strategy:\nevery token of the row, over all shards", "keeps nothing"),
        ("generation", "write k, v into the cache,\nread the cache's keys", "keeps the new slots"),
        (
            "streamed backward",
            "hand out q, k, v of one chunk;\nput a known result in their place",
            "keeps the chunk's q, k, v",
        ),
    )
    for i, (name, what, kept) in enumerate(owners):
        y = 5.75 - 2.35 * i
        c.box(9.4, y, 7.2, 1.95, color=ORANGE, fill=0.08)
        c.text(9.65, y + 1.6, name, 9, ha="left", weight="bold")
        c.text(9.65, y + 0.92, what, 8.5, ha="left")
        c.text(9.65, y + 0.28, "→ (out, kept):  " + kept, 8, MUTED, ha="left")
        c.arrow((6.4, 4.85), (9.4, y + 1.0), ORANGE, style="<|-|>")
    c.save("attend")


def _pairs(T: int, window: int) -> np.ndarray:
    """1 where a causal query sees a key less than `window` before it, 2 where further back, 0 where not."""
    distance = np.arange(T)[:, None] - np.arange(T)[None]
    return np.where(distance < 0, 0, np.where(distance < window, 1, 2))


def parts() -> None:
    """Self-Extend as two parts of the pairs, each with its mask and its own rotation, merged."""
    c = Canvas(17, 7.4)
    grid, size = _pairs(10, 4), 0.42
    c.text(2.6, 6.9, 'position="self_extend(4, 4)"', 9, font=MONO)
    c.cells(0.5, 1.6, grid, size, {1: BLUE, 2: ORANGE})
    c.text(2.6, 1.15, "keys →", 8, MUTED)
    c.text(2.6, 0.6, "pairs of one row, cut into parts", 8.5, MUTED)
    for i, (color, mask, rotated) in enumerate(
        (
            (BLUE, "causal & window(4)", "q by p,   k by p"),
            (ORANGE, "causal & beyond(4)", "q by p // 4 + 3,   k by p // 4"),
        )
    ):
        y = 4.1 - 3.2 * i
        c.cells(6.1, y, np.where(grid == i + 1, i + 1, 0), size * 0.62, {1: BLUE, 2: ORANGE})
        c.arrow((4.8, 3.7), (6.0, y + 1.3), color)
        c.text(9.0, y + 2.15, f"masks[{i}]   {mask}", 8.5, font=MONO, ha="left")
        c.text(9.0, y + 1.5, rotated, 8.5, MUTED, ha="left")
        c.text(9.0, y + 0.85, f"attend(q[{i}], k[{i}], v)", 8.5, font=MONO, ha="left")
        c.arrow((13.6, y + 1.1), (14.4, 3.75 + 0.35 * (1 - 2 * i)), color)
        c.text(9.0, y + 0.25, f"→ out{'₁₂'[i]}, lse{'₁₂'[i]}", 8.5, color, ha="left")
    c.box(14.4, 2.85, 2.2, 1.8, "merge", INK, 10, 0.05)
    c.save("parts")


def exchange() -> None:
    """The three methods of a strategy, and what stays between forward and backward."""
    c = Canvas(17.8, 8.2)
    c.box(0.4, 5.2, 2.7, 1.8, "q, k, v\nof this shard", BLUE, 9)
    c.box(4.4, 5.2, 2.9, 1.8, "exchange", ORANGE, 9.5, 0.25, MONO)
    c.box(8.6, 5.2, 2.9, 1.8, "forward", ORANGE, 9.5, 0.25, MONO)
    c.box(13.2, 5.2, 3.2, 1.8, "out, lse", GREEN, 9.5, 0.25, MONO)
    c.box(4.4, 1.9, 2.9, 1.4, "held", LINE, 9.5, 0.25, MONO)
    c.box(8.6, 1.9, 2.9, 1.4, "backward", ORANGE, 9.5, 0.25, MONO)
    c.box(13.2, 1.9, 3.2, 1.4, "row stats\ndout, lse, delta", GREEN, 9, 0.12)
    c.box(0.4, 1.9, 2.7, 1.4, "dq, dk, dv", BLUE, 9.5, 0.25, MONO)
    for start, end in (
        ((3.1, 6.1), (4.4, 6.1)),
        ((7.3, 6.1), (8.6, 6.1)),
        ((11.5, 6.1), (13.2, 6.1)),
        ((7.3, 2.6), (8.6, 2.6)),
        ((13.2, 2.6), (11.5, 2.6)),
        ((5.85, 5.2), (5.85, 3.3)),
        ((14.8, 5.2), (14.8, 3.3)),
    ):
        c.arrow(start, end)
    c.arrow((9.6, 1.9), (2.0, 1.9), ORANGE, bend=-0.12)
    c.text(5.85, 7.45, "all-gather: all keys\nUlysses: other heads, whole rows", 8, MUTED)
    c.text(10.05, 7.45, "ring: a block of keys a hop\nand the pair so far", 8, MUTED)
    c.text(6.05, 4.25, "kept, or exchanged again:\nthe remat policy says", 8, MUTED, ha="left")
    c.text(15.0, 4.25, "of the whole row,\nover all shards", 8, MUTED, ha="left")
    c.text(
        8.5,
        0.4,
        "forward and backward call another strategy for their pieces: the innermost one is a kernel",
        8.5,
        MUTED,
    )
    c.save("exchange")


def stream() -> None:
    """The residual stream of the streamed backward: slots by chunks, and the one layer that is in work."""
    c = Canvas(17, 8.6)
    chunks, slots, size = 6, 5, 0.95
    labels = ["input of layer 0", "input of layer 2", "input of layer 4", "result", "input of layer 1 or 3"]
    for s in range(slots):
        y = 6.5 - 1.15 * s
        c.text(3.7, y + 0.4, labels[s], 8.5, ha="right")
        c.text(4.3, y + 0.4, f"slot {s}", 8, MUTED, font=MONO)
        for i in range(chunks):
            color = GREEN if s == slots - 1 else BLUE
            active = i == 2 and s in (1, 4)
            c.box(5.1 + size * i, y, size - 0.1, 0.85, "", ORANGE if active else color, 8, 0.6 if active else 0.2)
    for i in range(chunks):
        c.text(5.1 + size * i + 0.42, 7.65, f"{i}", 8, MUTED)
    c.text(5.1 + size * 3, 8.15, "chunks of the row", 8.5, MUTED)
    c.box(12.6, 3.5, 4.0, 2.6, "on the way back\nlayer 2, chunk 2 again:\nread slot 1, write slot 4", ORANGE, 8.5, 0.1)
    c.arrow((7.9, 5.75), (12.6, 5.3), ORANGE, bend=-0.08)
    c.arrow((12.6, 4.0), (7.9, 2.35), ORANGE, bend=-0.08)
    c.box(12.6, 6.6, 4.0, 1.3, "beside it: one layer's\nkeys and values of all chunks", LINE, 8.5, 0.15)
    c.arrow((14.6, 6.6), (14.6, 6.1))
    c.text(
        8.5,
        0.75,
        "residual_every = 2, five layers. Blue: kept from the way forward. Green: computed again on the way back,\n"
        "where for each layer, last to first, and each chunk the gradient dy is pulled back through that layer",
        8.5,
        MUTED,
    )
    c.save("stream")


if __name__ == "__main__":
    for draw in (merge, attend, parts, exchange, stream):
        draw()
