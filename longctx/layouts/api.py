"""Which token sits on which context shard. Every shard holds equally many tokens of a row, in the order of the row.

Masks and RoPE read positions, never indices, so a layout changes no result: only who computes what. Under a causal mask
a contiguous cut leaves the last shard with 2 - 1/C times the mean work. Zigzag gives every shard one early and one late
piece of the row, which is even for one document but not for packed ones: `per_document` does the same with each of
them. Striped deals the row out, which is nearly even for both. Balanced is even for any documents, and lets as few of
their keys travel as that takes.

Even work is not all: kernels compute in blocks, and can skip none that holds tokens from far apart. So stripes and
pieces should be about as wide as a kernel's blocks, as in "per_document(256)"; where documents are shorter than C such
blocks, width 1 has every shard compute several times as many of them.
"""

# parts of numpy have no types; what callers give is checked when it runs
# pyright: reportUnknownMemberType=false, reportUnnecessaryIsInstance=false

import dataclasses
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from jaxtyping import Integer, Shaped

from longctx.config import Config
from longctx.errors import UserError, unknown_name
from longctx.layouts.balanced import Balanced
from longctx.layouts.simple import Contiguous, Layout, PerDocument, Reaches, Striped, Zigzag

CAUSAL: Reaches = ((None, 1),)

LAYOUTS: dict[str, type[Layout]] = {
    "contiguous": Contiguous,
    "zigzag": Zigzag,
    "striped": Striped,
    "per_document": PerDocument,
    "balanced": Balanced,
}


@runtime_checkable
class Rows(Protocol):
    """Arrays of rows, numpy's or jax's."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, T, ...]"""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


AnyRows = TypeVar("AnyRows", bound=Rows)


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Rows put into the order of a layout, and results of them put back.

    order: int [B, T], or [1, T] for all rows: slot i of laid-out row b holds its token order[b, i].
    """

    order: Integer[np.ndarray, "_ T"]

    def apply(self, batch: Any) -> Any:
        """The arrays [B, T, ...] of a batch with their tokens in the layout's order: one, or dicts and tuples of them.

        Raises UserError as `permute`.
        """
        return _permuted(batch, self.order)

    def undo(self, results: Any) -> Any:
        """Arrays [B, T, ...] in the layout's order, as `apply` takes them, in the order of the rows again."""
        return _permuted(results, inverse(self.order))


def parse(text: str) -> Layout:
    """The layout that text such as "zigzag" or "striped(256)" names. Raises UserError for anything else."""
    match = re.fullmatch(r"(\w+)(?:\(([1-9]\d*)\))?", text) if isinstance(text, str) else None
    layout = LAYOUTS.get(match[1]) if match else None
    if match is None or layout is None or (match[2] and not layout.takes_width):
        with_width = [f"{name}(256)" for name, layout in LAYOUTS.items() if layout.takes_width]
        raise unknown_name("attention.layout", text, [*LAYOUTS, *with_width])
    return layout(*[int(width) for width in match.groups()[1:] if width])


def unit(name: str, shards: int) -> int:
    """The number of tokens that the length of a row must divide by, for a layout over `shards` context shards.

    Raises UserError for an unknown layout, or a number of shards that is no count.
    """
    _require_count("shards", shards)
    pieces = parse(name).pieces
    return shards * pieces if shards > 1 else 1


def check(name: str, length: int, shards: int) -> None:
    """Raises UserError for an unknown layout, or a length that does not divide; names the nearest lengths that do."""
    need = unit(name, shards)
    _require_count("seq_len", length)
    if length % need:
        below, above = length // need * need, -(-length // need) * need
        near = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"seq_len={length} must divide by {need} for attention.layout={name!r} "
            f"over {shards} context shards. Nearest: {near}."
        )


def check_stages(config: Config, lengths: Sequence[int]) -> None:
    """Raises UserError where attention.layout is unknown, or the rows of a stage do not divide for it on the mesh.

    The lengths of evaluations need not divide: their rows are padded. lengths: tokens of a row of each stage, joined
    where attention.across_rows does so.
    """
    parse(config.attention.layout)
    for i, (stage, length) in enumerate(zip(config.stages, lengths, strict=True)):
        try:
            check(config.attention.layout, length, config.mesh.context_shards)
        except UserError as error:
            joined = f" (joined, {length // stage.seq_len} x {stage.seq_len})" if length > stage.seq_len else ""
            raise UserError(f"stages[{i}].{error}{joined}") from error


def permutation(
    name: str, segments: Integer[np.ndarray, "B T"], shards: int, reaches: Reaches = CAUSAL
) -> Integer[np.ndarray, "_ T"]:
    """int [B, T], or [1, T] for all rows: slot i of laid-out row b holds its token permutation[b, i].

    segments: int [B, T], the documents of each row in runs. reaches: see Layout.owner. Raises UserError as `check`.
    """
    if segments.ndim != 2 or not np.issubdtype(segments.dtype, np.integer) or segments.min(initial=0) < 0:
        raise UserError(f"segments {segments.dtype}{list(segments.shape)} must be integers [B, T], none below 0.")
    check(name, segments.shape[1], shards)
    if shards == 1:
        return np.arange(int(segments.shape[1])).reshape(1, -1)
    owner = parse(name).owner(segments, shards, reaches)
    return np.argsort(owner.astype(np.int16), axis=1, kind="stable")  # a radix sort: linear in T


def arrange(name: str, segments: Integer[np.ndarray, "B T"], shards: int, reaches: Reaches = CAUSAL) -> Arrangement:
    """The arrangement of rows with these segments, int [B, T]. Raises UserError as `permutation`."""
    return Arrangement(permutation(name, segments, shards, reaches))


def inverse(order: Integer[np.ndarray, "B T"]) -> Integer[np.ndarray, "B T"]:
    """The permutation that undoes `order`: permute(permute(x, order), inverse(order)) is x.

    Raises UserError for an order that is no permutation of every row.
    """
    back = np.argsort(order, axis=1)
    if (np.take_along_axis(order, back, 1) != np.arange(order.shape[1])).any():
        raise UserError(
            f"an order {list(order.shape)} must hold every slot of a row once, from 0 to "
            f"{order.shape[1] - 1}; it holds from {order.min()} to {order.max()}."
        )
    return back


def permute(x: Shaped[AnyRows, "B T *rest"], order: Integer[np.ndarray, "#B T"]) -> Shaped[AnyRows, "B T *rest"]:
    """An array [B, T, ...] with its rows in the given order, int [B, T], or [1, T] for all rows."""
    if len(order) not in (1, len(x)) or order.shape[1:] != x.shape[1:2]:
        raise UserError(
            f"an array {list(x.shape)} and an order {list(order.shape)}: rows must be of one length, and "
            "the order's be 1 or as many."
        )
    if len(order) > 1:
        return x[np.arange(len(x))[:, None], order]
    return np.take(cast(Any, x), order[0], 1) if isinstance(x, np.ndarray) else x[:, order[0]]


def _permuted(tree: Any, order: Integer[np.ndarray, "_ T"]) -> Any:
    """An array, or dicts and tuples of arrays, permuted."""
    if isinstance(tree, dict):
        return {name: _permuted(x, order) for name, x in cast(dict[str, Any], tree).items()}
    if isinstance(tree, tuple):
        parts = cast(tuple[Any, ...], tree)
        inside = [_permuted(x, order) for x in parts]
        return type(parts)(*inside) if hasattr(parts, "_fields") else tuple(inside)
    return permute(tree, order)


def lay_out(
    batch: Mapping[str, Shaped[np.ndarray, "B T ..."]], name: str, shards: int, reaches: Reaches = CAUSAL
) -> dict[str, Shaped[np.ndarray, "B T ..."]]:
    """A batch of arrays [B, T], `segments` among them, in the order of a layout. Raises UserError as `permutation`."""
    if "segments" not in batch:
        raise UserError(f"the batch holds {', '.join(batch)}, and must hold segments: int [B, T], 0 is padding.")
    others = {key: x.shape for key, x in batch.items() if x.shape[:2] != batch["segments"].shape}
    if others:
        key, shape = next(iter(others.items()))
        raise UserError(f"segments {list(batch['segments'].shape)} and {key} {list(shape)}: both must be [B, T].")
    return arrange(name, batch["segments"], shards, reaches).apply(batch)


def _require_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < 1:
        raise UserError(f"{name}={value!r} must be a whole number from 1 on.")
