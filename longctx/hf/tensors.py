"""The places of our parameters in the tensors of a checkpoint. A Piece works both ways: to load and to save.

A form such as "(N H) D -> D N H" gives the axes of the tensor ("theirs"; those in parentheses are one axis) and of the
parameter ("ours"). An axis P of theirs holds several parameters: ours is at one index, or at a slice where P is an axis
of ours too. The axis of stacked layers is not written.
"""

import dataclasses
import math
import re

import numpy as np


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a checkpoint tensor that is one of our parameters.

    Attributes:
      name: of the tensor; {layer} stands for the layer's number.
      form: "theirs -> ours", see this module.
      parts: the size of axis P in theirs.
      part: the index or slice of P that is ours.
    """

    name: str
    form: str = "D -> D"
    parts: int = 1
    part: int | slice = 0

    def ours(self, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The parameter, of shape `shape`, as a view of their tensor."""
        axes, order = self._axes(), self._order()
        place = tuple(self.part if axis == "P" else slice(None) for axis in axes)
        return theirs.reshape([self._sizes(shape)[axis] for axis in axes])[place].transpose(order)

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the whole tensor, for a parameter of shape `ours`."""
        sizes = self._sizes(ours)
        groups = re.findall(r"\(([^)]*)\)|(\w)", self.form.split("->")[0])
        return tuple(math.prod(sizes[axis] for axis in (several or single).split()) for several, single in groups)

    def _axes(self) -> list[str]:
        return re.findall(r"\w", self.form.split("->")[0])

    def _order(self) -> list[int]:
        kept = [axis for axis in self._axes() if axis != "P" or isinstance(self.part, slice)]
        return [kept.index(axis) for axis in self.form.split("->")[1].split()]

    def _sizes(self, ours: tuple[int, ...]) -> dict[str, int]:
        return dict(zip(self.form.split("->")[1].split(), ours, strict=True)) | {"P": self.parts}


Names = dict[str, Piece]  # by the path of a parameter, "attention.wq"; in a block, the path inside the block

HEAD = {"head": Piece("lm_head.weight", "V D -> D V")}
OUTSIDE: Names = {
    "embedding.table": Piece("model.embed_tokens.weight", "V D -> V D"),
    "norm.scale": Piece("model.norm.weight"),
} | HEAD


def attention(at: str) -> Names:
    """The tensors of attention under the prefix `at`, with Llama's names and one tensor per projection."""
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
    """The tensors of a gated feed-forward under the prefix `at`; `ours` is the prefix of the parameters."""
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
    """The tensors of a block with their full names, under the prefix `at` and the layer's number."""
    return {path: dataclasses.replace(piece, name=f"{at}.{{layer}}.{piece.name}") for path, piece in names.items()}
