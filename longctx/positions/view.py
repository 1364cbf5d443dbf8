"""What the layers of one kind see of positions: their method, mask and temperature, made ready for one step."""
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from longctx.config import LayerConfig
from longctx.errors import UserError
from longctx.positions import methods, rope, temperature
from pallas_kernels import masks
from pallas_kernels.attention.bias import Bias


class View(NamedTuple):
    """One kind of layer, in one step.

    Attributes:
      masks: of each part of the pairs, see methods.Part.
      tables: of the queries and of the keys of each part; None where nothing rotates.
      bias, bias_table: added to the scores, or None.
      temperature: float32 [B, T], multiplies the queries; None is 1.
    """
    masks: tuple[masks.Mask, ...]
    tables: tuple[tuple[rope.Table, rope.Table] | None, ...]
    bias: Bias | None
    bias_table: jax.Array | None
    temperature: jax.Array | None

    def turned(self, q, k):
        """The queries BTNH and the keys BTKH of every part: what `attend` takes, with `masks`."""
        wide = [x.astype(jnp.float32) for x in (q, k)]          # gradients of the parts are summed in it
        if self.temperature is not None:
            wide[0] = wide[0] * self.temperature[:, :, None, None]
        turn = lambda x, table: x if table is None else rope.rotate(x, table)
        pairs = [[turn(x, table).astype(q.dtype) for x, table in zip(wide, tables or (None, None), strict=True)]
                 for tables in self.tables]
        return tuple(zip(*pairs, strict=True))


def resolve(kind: LayerConfig, field: str = "model") -> tuple[methods.Method, masks.Mask, Callable]:
    """The method, mask and temperature that the settings of a kind name.

    Raises:
      UserError: for one that is not known, or a method that does not go with the mask.
    """
    method = methods.parse(kind.position, f"{field}.position")
    try:
        mask = masks.parse(kind.mask)
    except ValueError as error:
        raise UserError(f"{field}.mask: {error}") from error
    reason = method.why_not(mask)
    if reason:
        raise UserError(f"{field}.position={kind.position!r} does not work with {field}.mask={kind.mask!r}: {reason}.")
    return method, mask, temperature.parse(kind.temperature, f"{field}.temperature")


def learned_numbers(kinds: tuple[LayerConfig, ...]) -> int:
    """How many numbers of each head the layers' bias has that are trained; they share one table. 0 is none."""
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
    return View(
        masks=tuple(mask & part.mask for part in parts),
        tables=tuple((turned(part.query, part.divisor), turned(part.key, part.divisor)) if method.rotates else None
                     for part in parts),
        bias=method.bias, bias_table=learned if method.learned else method.table(heads),
        temperature=factor(positions))
