"""Where each of our parameters lies in the tensors of a checkpoint. A Piece works both ways: to load and to save.

A form such as "(N H) D -> D N H" reads: their axes, those in parentheses being one axis of the tensor, and ours. P is
an axis of theirs that holds several parameters: ours is one place of it, or a range where P is an axis of ours too.
Axes that are stacked over layers are not written.
"""

import dataclasses
import math
import re

import numpy as np


@dataclasses.dataclass(frozen=True)
class Piece:
    """A parameter of ours as a part of a tensor of theirs.

    Attributes:
      name: of the tensor; {layer} stands for the layer's number.
      form: "theirs -> ours".
      parts: how many places P has in theirs.
      part: the place, or the range of places, that is ours.
    """

    name: str
    form: str = "D -> D"
    parts: int = 1
    part: int | slice = 0

    def ours(self, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The parameter, of that shape, as a view of their tensor."""
        axes, order = self._axes(), self._order()
        place = tuple(self.part if axis == "P" else slice(None) for axis in axes)
        return theirs.reshape([self._sizes(shape)[axis] for axis in axes])[place].transpose(order)

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Of the whole tensor, for a parameter of that shape."""
        sizes = self._sizes(ours)
        groups = re.findall(r"\(([^)]*)\)|(\w)", self.form.split("->")[0])
        return tuple(math.prod(sizes[axis] for axis in (many or one).split()) for many, one in groups)

    def _axes(self) -> list[str]:
        return re.findall(r"\w", self.form.split("->")[0])

    def _order(self) -> list[int]:
        kept = [axis for axis in self._axes() if axis != "P" or isinstance(self.part, slice)]
        return [kept.index(axis) for axis in self.form.split("->")[1].split()]

    def _sizes(self, ours: tuple[int, ...]) -> dict[str, int]:
        return dict(zip(self.form.split("->")[1].split(), ours, strict=True)) | {"P": self.parts}


Names = dict[str, Piece]  # by the path of a parameter, "attention.wq"; of a block: inside the block

HEAD = {"head": Piece("lm_head.weight", "V D -> D V")}
OUTSIDE: Names = {
    "embedding.table": Piece("model.embed_tokens.weight", "V D -> V D"),
    "norm.scale": Piece("model.norm.weight"),
} | HEAD


def attention(at: str) -> Names:
    """Projections of their own, under `at`; their names are Llama's."""
    heads = {"q": ("N", "wq", "bq"), "k": ("K", "wk", "bk"), "v": ("K", "wv", "bv")}
    names = {}
    for letter, (axis, weight, bias) in heads.items():
        names[f"attention.{weight}"] = Piece(f"{at}.{letter}_proj.weight", f"({axis} H) D -> D {axis} H")
        names[f"attention.{bias}"] = Piece(f"{at}.{letter}_proj.bias", f"({axis} H) -> {axis} H")
    return names | {
        "attention.wo": Piece(f"{at}.o_proj.weight", "D (N H) -> N H D"),
        "attention.bo": Piece(f"{at}.o_proj.bias"),
        "attention.q_norm.scale": Piece(f"{at}.q_norm.weight", "H -> H"),
        "attention.k_norm.scale": Piece(f"{at}.k_norm.weight", "H -> H"),
        "attention.sinks": Piece(f"{at}.sinks", "N -> N"),
    }


def gated(ours: str, at: str) -> Names:
    """A gated feed-forward, under `at`."""
    names = {}
    for part in ("gate", "up"):
        names[f"{ours}.{part}"] = Piece(f"{at}.{part}_proj.weight", "F D -> D F")
        names[f"{ours}.{part}_bias"] = Piece(f"{at}.{part}_proj.bias", "F -> F")
    return names | {
        f"{ours}.down": Piece(f"{at}.down_proj.weight", "D F -> F D"),
        f"{ours}.down_bias": Piece(f"{at}.down_proj.bias"),
    }


NORMS: Names = {
    "attention_norm.scale": Piece("input_layernorm.weight"),
    "mlp_norm.scale": Piece("post_attention_layernorm.weight"),
}
LLAMA: Names = NORMS | attention("self_attn") | gated("mlp", "mlp")


def blocks(names: Names, at: str = "model.layers") -> Names:
    """The names of a block's tensors, made those of the whole file."""
    return {path: dataclasses.replace(piece, name=f"{at}.{{layer}}.{piece.name}") for path, piece in names.items()}
