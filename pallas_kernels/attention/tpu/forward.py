"""The TPU forward kernel: one pair of blocks at each grid step, online softmax over the pairs of a block of queries.

A pair is computed in tiles of `rows` queries x `chunk` keys. Each goes through three stages: scores and their maximum,
weights, weighted values. Scores are in base 2, for exp2 is what the hardware has.
"""
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import masks, tpu_chips
from pallas_kernels.attention.blocks import pad_info
from pallas_kernels.attention.pair import Inputs, Pair
from pallas_kernels.attention.tpu import pairs
from pallas_kernels.attention.tpu.parts import (
    LOG2_E,
    LOW,
    as_rows,
    heads_first,
    heads_last,
    info_columns,
    info_rows,
    on_kind,
    stacked,
    staged,
)
from pallas_kernels.attention.tpu.sizes import native_head_size
from pallas_kernels.masks import Ranges
from pallas_kernels.mosaic_tpu import LANES, as_columns, call, like, matmul, reciprocal

_ONES = 16                   # rows of ones after the values: the fewest that a bfloat16 product takes


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How a kernel lays out scores and their factor.

    Attributes:
      transposed: scores are S^T [k, q] = K Q^T instead of S [q, k] = Q K^T, and every other array is the transpose of
        what it is else. That fills matrix units wider than a head; statistics of the queries are rows [1, q], and the
        sum of the weights is one more row of the weighted values. Not transposed, statistics are [q, 128], all columns
        equal.
      prescaled: q comes multiplied by the factor of the scores: in float32, or as two bfloat16 halves, high and low,
        one after the other, which meet k twice in one product: free where the matrix unit is twice as wide as a head.
        Else the scores are multiplied.
    """
    transposed: bool
    prescaled: bool

    def at(self, axis, part):
        """The index of a part of an array along what is this axis when not transposed."""
        return (slice(None), part) if axis ^ self.transposed else (part, slice(None))

    def shape(self, *plain):
        """The shape of an array that has the shape `plain` when not transposed."""
        return plain[::-1] if self.transposed else plain

    def oriented(self, x):
        """The array with its last two axes swapped, if transposed; its own inverse."""
        return x.swapaxes(-1, -2) if self.transposed else x

    def block_spec(self, axis, size, width, number, head=lambda h: h):
        """A BlockSpec of `size` tokens along this axis (when not transposed) and all of the other one, `width`.

        number: pairs.outer or pairs.inner, which of the blocks of a pair; head: of a query head.
        """
        sides = [(size, number), (width, lambda entry: 0)]
        (first, at), (second, across) = self.shape(*(sides[::-1] if axis else sides))
        return pl.BlockSpec((None, None, first, second), lambda b, h, t, block_list, *_: (
            b, head(h), at(block_list[b, t]), across(block_list[b, t])))

    @property
    def columns(self):
        """How many copies of a statistic of a query there are."""
        return 1 if self.transposed else LANES

    def info(self, q_info, k_info):
        """The TokenInfo of both sides, to broadcast to scores."""
        if self.transposed:
            return info_rows(q_info), info_columns(k_info, q_info.shape[1])
        return info_columns(q_info, k_info.shape[1]), info_rows(k_info)

    def product(self, a, b):
        """The product a b, or its transpose b^T a^T."""
        return matmul(b, a, (1, 0)) if self.transposed else matmul(a, b, (1, 0))

    def spread(self, statistics, width):
        """Statistics of queries over this many columns; rows broadcast by themselves."""
        return statistics if self.transposed else jnp.tile(statistics, (1, pl.cdiv(width, LANES)))[:, :width]


class _Operand(NamedTuple):
    """An array, heads first, and which block of it a grid step reads or writes."""
    array: jax.Array
    block: pl.BlockSpec


def attend(x: Inputs, spec, sizes, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    (B, T, N, H), width, out_dtype = x.q.shape, tpu_chips.matrix_width(), spec.result_dtype(x.q)
    way = Orientation(transposed=width > LANES, prescaled=x.q.dtype == jnp.float32 or 2 * H <= width)
    factor = spec.score_scale(H) * (1 / spec.soft_cap if spec.soft_cap else LOG2_E)
    q_info, k_info = pad_info(x.q_info, sizes.q), pad_info(x.k_info, sizes.k)
    block_list, steps = pairs.pairs(pairs.kinds(spec.mask, q_info, k_info, *sizes[:3]))
    ranges = [jnp.stack(masks.block_ranges(info, size)[:4], 1)
              for info, size in ((q_info, sizes.rows), (k_info, sizes.chunk))]
    operands = _operands(x, (q_info, k_info), sizes, way, factor)
    q, length, head = operands[2].array, q_info.positions.shape[1], native_head_size(H)
    row = lambda b, h, t, block_list, *_: (b, h, 0, pairs.outer(block_list[b, t]))
    results = [way.block_spec(0, sizes.q, head, pairs.outer), pl.BlockSpec((None, None, 1, sizes.q), row)]
    aliases = {}
    if initial is not None:
        start = way.oriented(heads_first(initial.out, sizes.q)), heads_first(initial.lse, sizes.q)
        # a block of the results, at its place after block_list and ranges, is read before it is written
        aliases = {3 + len(operands) + i: i for i in range(2)}
        operands += [_Operand(*each) for each in zip(start, results, strict=True)]
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=3,
        grid=(B, N, steps),
        in_specs=[operand.block for operand in operands],
        out_specs=results,
        scratch_shapes=[pltpu.VMEM(way.shape(sizes.q, n), jnp.float32) for n in (way.columns, way.columns, head)])
    kernel = functools.partial(forward, spec=spec, way=way, sizes=sizes, factor=None if way.prescaled else factor)
    types = like(q, (B, N, *way.shape(length, head)), out_dtype), like(q, (B, N, 1, length), jnp.float32)
    arrays = [block_list, *ranges, *(operand.array for operand in operands)]
    out, lse = call(kernel, grid, "parallel parallel arbitrary", list(types), arrays, aliases,
                    whole_region=not way.transposed)
    return Pair(heads_last(way.oriented(out), T, H), lse[:, :, 0, :T].swapaxes(1, 2))


def _operands(x: Inputs, infos, sizes, way: Orientation, factor) -> list[_Operand]:
    """The infos of queries and keys, q, k and v as the kernel reads them."""
    group = x.q.shape[2] // x.k.shape[2]
    q, k, v = heads_first(x.q, sizes.q), heads_first(x.k, sizes.k), heads_first(x.v, sizes.k)
    head = q.shape[3]
    q = _scaled(q, factor) if way.prescaled else q
    key_head = lambda h: jax.lax.div(h, group)
    outer = lambda b, h, t, block_list, *_: (b, 0, pairs.outer(block_list[b, t]))
    inner = lambda b, h, t, block_list, *_: (b, 0, pairs.inner(block_list[b, t]))
    return [
        _Operand(stacked(infos[0]), pl.BlockSpec((None, 2, sizes.q), outer)),
        _Operand(stacked(infos[1]), pl.BlockSpec((None, 2, sizes.k), inner)),
        _Operand(way.oriented(q), way.block_spec(0, sizes.q, q.shape[3], pairs.outer)),
        _Operand(way.oriented(k.swapaxes(2, 3)), way.block_spec(1, sizes.k, head, pairs.inner, key_head)),
        _Operand(way.oriented(v), way.block_spec(0, sizes.k, head, pairs.inner, key_head))]


def _scaled(q, factor):
    """q times factor [..., H] in float32; bfloat16 as two halves [..., 2H], whose sum has 16 bits."""
    scaled = factor * q.astype(jnp.float32)
    if q.dtype == jnp.float32:
        return scaled
    high = jax.lax.reduce_precision(scaled, 8, 7)               # a cast there and back may be simplified away
    return jnp.concatenate([high, scaled - high], -1).astype(q.dtype)


def forward(block_list, q_ranges, k_ranges, q_info, k_info, q, k, v, *refs, spec, way, sizes, factor):
    """Grid (batch, query head, pair of blocks). In SMEM, int32: block_list [B, pairs]; q_ranges [B, 4, T / rows] and
    k_ranges [B, 4, S / chunk], which are the Ranges of the sides of tiles, without `real`.

    Infos: positions and segments [2, tokens]. Not transposed, q is [q, H] (or [q, 2H], see Orientation), out [q, H],
    k [H, k], v [k, H]. lse [1, q]. factor multiplies the scores; None if q is prescaled. refs: the initial out and lse,
    if there are any; the resulting ones; and scratch, float32: top, the highest score, and total, the sum of weights,
    are statistics of the queries; acc [q, H]. All of the scratch is clear when a block of queries begins.
    """
    *initial, out, lse, top, total, acc = refs
    b = pl.program_id(0)
    entry = block_list[b, pl.program_id(2)]
    keys_axis = 1 - way.transposed

    def clear(rows):
        for ref, value in ((top, LOW), (total, 0.0), (acc, 0.0)):
            ref[rows] = jnp.full_like(ref[rows], value)

    pieces = sizes.q // LANES
    piece = lambda i: pl.ds(pl.multiple_of(i * LANES, LANES), LANES)

    @pl.when(pl.program_id(2) == 0)
    def _():
        pl.loop(0, pieces)(lambda i: clear(way.at(0, piece(i))))

    if initial:
        @pl.when(pairs.first(entry))
        def _():
            for i in range(pieces):                            # a single key's softmax, of this score and this value
                rows, score = way.at(0, piece(i)), jnp.maximum(initial[1][:, piece(i)] * LOG2_E, LOW)
                score = score if way.transposed else as_columns(score)
                top[rows], total[rows], acc[rows] = score, jnp.where(score > LOW, 1.0, 0.0), initial[0][rows]

    def scores(queries, keys, masked):
        rows, k_part = way.at(0, queries), k[way.at(1, keys)]
        if way.prescaled and k.dtype != jnp.float32:
            k_part = jnp.concatenate([k_part, k_part], 1 - keys_axis)
        s = way.product(q[rows], k_part)
        s = s if factor is None else factor * s
        s = spec.soft_cap * LOG2_E * jnp.tanh(s) if spec.soft_cap else s
        if masked:
            see = masks.sees(spec.mask, *way.info(q_info.at[:, queries], k_info.at[:, keys]))
            s = jnp.where(see, s, -jnp.inf)
        old_top = top[rows]
        top[rows] = jnp.maximum(old_top, s.max(keys_axis, keepdims=True))
        return s, top[rows], jnp.exp2(old_top - top[rows])

    def weights(queries, keys, masked, s, highest, alpha):
        return jnp.exp2(s - way.spread(highest, s.shape[1])), alpha

    def values(queries, keys, masked, p, alpha):
        rows, v_part = way.at(0, queries), v[way.at(0, keys)]
        if way.transposed:
            ones = jnp.ones((_ONES, v_part.shape[1]), v.dtype)
            weighted = way.product(p.astype(v.dtype), jnp.concatenate([v_part, ones]))
            weighted, sums = weighted[:-_ONES], weighted[-1:]
        else:
            weighted, sums = way.product(p, v_part), p.sum(keys_axis, keepdims=True)
        total[rows] = alpha * total[rows] + sums
        acc[rows] = way.spread(alpha, weighted.shape[1]) * acc[rows] + weighted

    stages = scores, weights, values
    across, down = sizes.k // sizes.chunk, sizes.q // sizes.rows

    def tile_by_tile(i):
        row, column = jax.lax.div(i, across), jax.lax.rem(i, across)
        range_of = lambda ranges, at: Ranges(*(ranges[b, x, at] for x in range(4)), real=None)
        of_queries = range_of(q_ranges, pairs.outer(entry) * down + row)
        of_keys = range_of(k_ranges, pairs.inner(entry) * across + column)

        @pl.when(~masks.nothing(spec.mask, of_queries, of_keys))
        def _():
            part = lambda at, size: pl.ds(pl.multiple_of(at * size, size), size)
            staged(stages, [(part(row, sizes.rows), part(column, sizes.chunk), True)], apart=0)

    def step(kind):
        if kind == masks.PARTIAL:                              # anything may be EMPTY in it
            pl.loop(0, across * down)(tile_by_tile)
        else:
            staged(stages, list(_full(sizes) if kind == masks.FULL else _lower(sizes)), apart=int(way.transposed))

    on_kind(pairs.kind(entry), step)

    @pl.when(pairs.last(entry))
    def _():
        for i in range(pieces):
            rows = way.at(0, piece(i))
            # what sees anything has a total of 1 or more: the highest score's own weight is 1
            share = _inverse(jnp.maximum(total[rows], 1.0))
            out[rows] = (acc[rows] * way.spread(share, acc.shape[1])).astype(out.dtype)
            highest, weight = (top[rows], total[rows]) if way.transposed else as_rows(top[rows], total[rows])
            lse[:, piece(i)] = jnp.where(weight > 0, (highest + jnp.log2(weight)) / LOG2_E, -jnp.inf)
            clear(rows)                                        # for the next block of queries


def _inverse(x):
    """1 / x, without the care that a division takes of zeros, infinities and denormals."""
    guess = reciprocal(x, approx=True)
    for _ in range(2):                                         # Newton: 8 bits or more, 16, all
        guess *= 2.0 - x * guess
    return guess


def _full(sizes):
    """(queries, keys, masked) of the tiles of a FULL pair; neighbours have no queries, and so no maximum, in common."""
    return [(slice(row, row + sizes.rows), slice(column, column + sizes.wide), False)
            for column in range(0, sizes.k, sizes.wide) for row in range(0, sizes.q, sizes.rows)]


def _lower(sizes):
    """(queries, keys, masked) of the tiles of a LOWER pair: masked on its diagonal, none above."""
    for row in range(0, sizes.q, sizes.rows):
        end = row + sizes.rows
        for column in range(0, min(end, sizes.k), sizes.chunk):
            keys, start = slice(column, column + sizes.chunk), row
            if keys.stop > row:
                start = min(keys.stop, end)
                yield slice(max(row, column), start), keys, True
            if start < end:
                yield slice(start, end), keys, False
