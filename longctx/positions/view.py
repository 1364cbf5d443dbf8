"""The view that layers of one kind have of positions: their method, mask and query scale, made ready for one step."""

import collections
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx.config import LayerConfig, ModelConfig
from longctx.errors import UserError
from longctx.positions import methods, query_scale, rope
from pallas_kernels import masks
from pallas_kernels.attention.bias import Bias


class View(NamedTuple):
    """The masks, rotations and factors of one kind of layer in one step.

    Attributes:
      masks: the mask of each part of the pairs, see methods.Part.
      queries, keys: the tables of each part; None where nothing rotates.
      one_key: whether all parts rotate keys alike.
      bias, bias_params: added to the scores, and its numbers [N, D], or None.
      query_scale: float32 [B, T], multiplies the queries; None is 1.
    """

    masks: tuple[masks.Mask, ...]
    queries: tuple[rope.Table | None, ...]
    keys: tuple[rope.Table | None, ...]
    one_key: bool
    bias: Bias | None
    bias_params: jax.Array | None
    query_scale: jax.Array | None

    def rotated(self, q, k):
        """The queries BTNH and the keys BTKH of every part: what `attend` takes, with `masks`."""
        return self.rotated_queries(q), self.rotated_keys(k)

    def rotated_queries(self, q):
        """The queries BTNH of every part, times the query scale."""
        wide = q.astype(jnp.float32)  # gradients of the parts are summed in it
        if self.query_scale is not None:
            wide = wide * self.query_scale[:, :, None, None]
        return tuple(_rotated(wide, table).astype(q.dtype) for table in self.queries)

    def rotated_keys(self, k):
        """The keys BTKH of every part."""
        wide = k.astype(jnp.float32)
        return tuple(_rotated(wide, table).astype(k.dtype) for table in self.keys)

    def to_cache(self, k):
        """Keys BTKH as a cache keeps them: rotated, if all parts rotate them alike."""
        return self.rotated_keys(k)[0] if self.one_key else k

    def from_cache(self, k):
        """The keys of every part from what a cache has kept, in a View of their positions."""
        return len(self.keys) * (k,) if self.one_key else self.rotated_keys(k)


def resolve(kind: LayerConfig, field: str = "model") -> tuple[methods.Method, masks.Mask, query_scale.QueryScale]:
    """The method, mask and query scale that the settings of a kind of layer name.

    Raises:
      UserError: for a name that is not known, or a method that does not go with the mask.
    """
    method = methods.parse(kind.position, f"{field}.position")
    try:
        mask = masks.parse(kind.mask)
    except ValueError as error:
        raise UserError(f"{field}.mask: {error}") from error
    reason = method.why_not(mask)
    if reason:
        raise UserError(f"{field}.position={kind.position!r} does not work with {field}.mask={kind.mask!r}: {reason}.")
    return method, mask, query_scale.parse(kind.query_scale, f"{field}.query_scale")


def learned_numbers(kinds: tuple[LayerConfig, ...]) -> int:
    """The count of trained numbers of each head in the layers' bias; all layers share one table. 0 is no such bias."""
    learned = {kind.position: methods.parse(kind.position).learned for kind in kinds}
    learned = {position: numbers for position, numbers in learned.items() if numbers}
    if len(learned) > 1:
        raise UserError(f"model.pattern: {' and '.join(learned)} are different, and all layers share one learned bias.")
    return sum(learned.values())


def view(kind: LayerConfig, positions: jax.Array, heads: int, tables: Callable, learned=None) -> View:
    """The View of a kind of layer, for tokens at int32 `positions` [B, T] and that many query heads.

    tables: (positions, divisor) -> rope.Table of positions / divisor. learned: the trained numbers [N, D] of a bias.
    """
    method, mask, factor = resolve(kind)
    parts, turned = method.parts(), functools.cache(lambda of, divisor: tables(of(positions), divisor))
    table = lambda of, divisor: turned(of, divisor) if method.rotates else None
    return View(
        masks=tuple(mask & part.mask for part in parts),
        queries=tuple(table(part.query, part.divisor) for part in parts),
        keys=tuple(table(part.key, part.divisor) for part in parts),
        one_key=len({(part.key, part.divisor) for part in parts}) == 1,
        bias=method.bias,
        bias_params=learned if method.learned else method.table(heads),
        query_scale=factor(positions),
    )


def memory(kind: LayerConfig) -> tuple[int, float]:
    """(first, recent): no layer of this kind sees other keys than the first `first` of a document and those at most
    `recent` positions before the query.

    Raises:
      UserError: for a mask under which tokens see later ones.
    """
    method, mask, _ = resolve(kind)
    if mask.reach()[0] < 0:
        raise UserError(
            f"model.mask={kind.mask!r} lets tokens see later ones, so that none can be generated; "
            f"'causal & ({kind.mask})' does not."
        )
    return _memory(method, mask)


def reaches(config: ModelConfig) -> tuple[tuple[int | None, int], ...]:
    """Counts of keys that queries see, by layers: (latest keys, or None for all; number of layers that see so many).

    longctx.layouts takes them as what attention costs. First tokens that a window keeps count as if they were among the
    latest.
    """
    layers = collections.Counter()
    for i, kind in enumerate(config.kinds):
        method, mask, _ = resolve(kind)
        first, recent = _memory(method, mask)
        reach = first + max(recent, 0) + 1
        layers[None if reach == float("inf") else int(reach)] += len(range(i, config.layers, len(config.kinds)))
    return tuple(layers.items())


def _memory(method, mask):
    first, recent = zip(*((mask & part.mask).memory() for part in method.parts()), strict=True)
    return max(first), max(recent)


def _rotated(x, table: rope.Table | None):
    return x if table is None else rope.rotate(x, table)
