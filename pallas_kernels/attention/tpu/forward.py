"""The TPU forward kernel: one pair of blocks at each grid step, online softmax over the pairs of a block of queries.

A pair is computed in tiles of `rows` queries x `chunk` keys. Each goes through three stages: scores and their maximum,
weights, weighted values. Scores are in base 2, for exp2 is what the hardware has.
"""
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import masks, tpu_chips
from pallas_kernels.attention import blocks as tiles
from pallas_kernels.attention.tpu import pairs
from pallas_kernels.attention.tpu.parts import (
    as_rows,
    heads_first,
    heads_last,
    on_kind,
    stacked,
    token_columns,
    token_rows,
)
from pallas_kernels.masks import Ranges
from pallas_kernels.mosaic_tpu import LANES, as_columns, call, like, matmul, reciprocal

_LOW = -1e30                 # the maximum of no scores: finite, so that exp2(-inf - _LOW) is 0 and not NaN
_LOG2_E = math.log2(math.e)
_ONES = 16                   # rows of ones after the values: the fewest that a bfloat16 product takes


@dataclasses.dataclass(frozen=True)
class Form:
    """Which way round a kernel computes.

    Attributes:
      turned: scores are [k, q] = K Q^T instead of [q, k] = Q K^T, and every other array is the transpose of what it is
        unturned. That fills matrix units wider than a head; statistics of the queries are rows [1, q], and the sum of
        the weights is one more row of the weighted values. Unturned, statistics are [q, 128], all columns equal.
      scaled: q comes multiplied by the factor of the scores: in float32, or as two bfloat16 halves, high and low, one
        after the other, which meet k twice in one product: free where the matrix unit is twice as wide as a head.
        Else the scores are multiplied.
    """
    turned: bool
    scaled: bool

    def at(self, axis, part):
        """The index of a part of an array along what is this axis unturned."""
        return (slice(None), part) if axis ^ self.turned else (part, slice(None))

    def shape(self, *unturned):
        return unturned[::-1] if self.turned else unturned

    def turn(self, x):
        """The last two axes swapped, if turned."""
        return x.swapaxes(-1, -2) if self.turned else x

    def blocks(self, axis, size, width, number, head=lambda h: h):
        """Blocks of this many tokens, which are along this axis unturned, the other being this wide; by their pair."""
        sides = [(size, number), (width, lambda entry: 0)]
        (first, at), (second, across) = self.shape(*(sides[::-1] if axis else sides))
        return pl.BlockSpec((None, None, first, second), lambda b, h, t, table, *_: (
            b, head(h), at(table[b, t]), across(table[b, t])))

    @property
    def columns(self):
        """How many of a statistic there are."""
        return 1 if self.turned else LANES

    def tokens(self, q_tokens, k_tokens):
        """Both sides' Tokens, to broadcast to scores."""
        if self.turned:
            return token_rows(q_tokens), token_columns(k_tokens, q_tokens.shape[1])
        return token_columns(q_tokens, k_tokens.shape[1]), token_rows(k_tokens)

    def product(self, a, b):
        return matmul(b, a, (1, 0)) if self.turned else matmul(a, b, (1, 0))

    def spread(self, statistics, width):
        """Statistics of queries over this many columns; rows broadcast by themselves."""
        return statistics if self.turned else jnp.tile(statistics, (1, pl.cdiv(width, LANES)))[:, :width]


def attend(q, k, v, tokens, spec, blocks, before=None):
    """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    (B, T, N, H), G, width = q.shape, q.shape[2] // k.shape[2], tpu_chips.matrix_width()
    form = Form(turned=width > LANES, scaled=q.dtype == jnp.float32 or 2 * H <= width)
    factor = spec.score_scale(H) * (1 / spec.soft_cap if spec.soft_cap else _LOG2_E)
    tokens = tiles.pad_tokens(tokens[0], blocks.q), tiles.pad_tokens(tokens[1], blocks.k)
    table, steps = pairs.pairs(pairs.kinds(spec.mask, *tokens, blocks.q, blocks.k, blocks.chunk))
    ranges = [jnp.stack(masks.block_ranges(side, size)[:4], 1)
              for side, size in zip(tokens, (blocks.rows, blocks.chunk), strict=True)]
    q, k, v = heads_first(q, blocks.q), heads_first(k, blocks.k), heads_first(v, blocks.k)
    (length, head), out_dtype = q.shape[2:], spec.result_dtype(q)
    q = _scaled(q, factor) if form.scaled else q
    key_head = lambda h: jax.lax.div(h, G)
    of_queries = lambda b, h, t, table, *_: (b, 0, pairs.outer(table[b, t]))
    of_keys = lambda b, h, t, table, *_: (b, 0, pairs.inner(table[b, t]))
    row = lambda b, h, t, table, *_: (b, h, 0, pairs.outer(table[b, t]))
    results = [form.blocks(0, blocks.q, head, pairs.outer), pl.BlockSpec((None, None, 1, blocks.q), row)]
    operands = [table, *ranges, *map(stacked, tokens), form.turn(q), form.turn(k.swapaxes(2, 3)), form.turn(v)]
    given, aliases = [], {}
    if before is not None:
        given, aliases = results, {len(operands): 0, len(operands) + 1: 1}      # a block is read before it is written
        operands += [form.turn(heads_first(before[0], blocks.q)), heads_first(before[1], blocks.q)]
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=3,
        grid=(B, N, steps),
        in_specs=[pl.BlockSpec((None, 2, blocks.q), of_queries), pl.BlockSpec((None, 2, blocks.k), of_keys),
                  form.blocks(0, blocks.q, q.shape[3], pairs.outer),
                  form.blocks(1, blocks.k, head, pairs.inner, key_head),
                  form.blocks(0, blocks.k, head, pairs.inner, key_head), *given],
        out_specs=results,
        scratch_shapes=[pltpu.VMEM(form.shape(blocks.q, n), jnp.float32) for n in (form.columns, form.columns, head)])
    kernel = functools.partial(forward, spec=spec, form=form, blocks=blocks, factor=None if form.scaled else factor)
    out, lse = call(kernel, grid, "parallel parallel arbitrary",
                    [like(q, (B, N, *form.shape(length, head)), out_dtype), like(q, (B, N, 1, length), jnp.float32)],
                    operands, aliases, whole_region=not form.turned)
    return heads_last(form.turn(out), T, H), lse[:, :, 0, :T].swapaxes(1, 2)


def _scaled(q, factor):
    """q times factor [..., H] in float32; bfloat16 as two halves [..., 2H], whose sum has 16 bits."""
    scaled = factor * q.astype(jnp.float32)
    if q.dtype == jnp.float32:
        return scaled
    high = jax.lax.reduce_precision(scaled, 8, 7)               # a cast there and back may be simplified away
    return jnp.concatenate([high, scaled - high], -1).astype(q.dtype)


def forward(table, q_ranges, k_ranges, q_tokens, k_tokens, q, k, v, *refs, spec, form, blocks, factor):
    """Grid (batch, query head, pair of blocks). In SMEM, int32: table [B, pairs]; q_ranges [B, 4, T / rows] and
    k_ranges [B, 4, S / chunk], which are the Ranges of the sides of tiles, without `real`.

    Tokens: positions and segments [2, tokens]. Unturned, q is [q, H] (or [q, 2H], see Form), out [q, H], k [H, k],
    v [k, H]. lse [1, q]. factor multiplies the scores; None if they come so. refs: the out and lse to go on from, if
    there are any; those to make; and scratch, float32: top, the highest score, and total, the sum of weights, are
    statistics of the queries; acc [q, H]. All clear when a block of queries begins.
    """
    *given, out, lse, top, total, acc = refs
    b = pl.program_id(0)
    entry = table[b, pl.program_id(2)]
    keys_axis = 1 - form.turned

    def clear(here):
        for ref, value in ((top, _LOW), (total, 0.0), (acc, 0.0)):
            ref[here] = jnp.full_like(ref[here], value)

    pieces = blocks.q // LANES
    piece = lambda i: pl.ds(pl.multiple_of(i * LANES, LANES), LANES)

    @pl.when(pl.program_id(2) == 0)
    def _():
        pl.loop(0, pieces)(lambda i: clear(form.at(0, piece(i))))

    if given:
        @pl.when(pairs.first(entry))
        def _():
            for i in range(pieces):                            # as of a single key, of this score and this value
                here, score = form.at(0, piece(i)), jnp.maximum(given[1][:, piece(i)] * _LOG2_E, _LOW)
                score = score if form.turned else as_columns(score)
                top[here], total[here], acc[here] = score, jnp.where(score > _LOW, 1.0, 0.0), given[0][here]

    def scores(queries, keys, masked):
        here, there = form.at(0, queries), k[form.at(1, keys)]
        if form.scaled and k.dtype != jnp.float32:
            there = jnp.concatenate([there, there], 1 - keys_axis)
        s = form.product(q[here], there)
        s = s if factor is None else factor * s
        s = spec.soft_cap * _LOG2_E * jnp.tanh(s) if spec.soft_cap else s
        if masked:
            see = masks.sees(spec.mask, *form.tokens(q_tokens.at[:, queries], k_tokens.at[:, keys]))
            s = jnp.where(see, s, -jnp.inf)
        before = top[here]
        top[here] = jnp.maximum(before, s.max(keys_axis, keepdims=True))
        return s, top[here], jnp.exp2(before - top[here])

    def weights(queries, keys, masked, s, highest, alpha):
        return jnp.exp2(s - form.spread(highest, s.shape[1])), alpha

    def values(queries, keys, masked, p, alpha):
        here, there = form.at(0, queries), v[form.at(0, keys)]
        if form.turned:
            ones = jnp.ones((_ONES, there.shape[1]), v.dtype)
            weighted = form.product(p.astype(v.dtype), jnp.concatenate([there, ones]))
            weighted, sums = weighted[:-_ONES], weighted[-1:]
        else:
            weighted, sums = form.product(p, there), p.sum(keys_axis, keepdims=True)
        total[here] = alpha * total[here] + sums
        acc[here] = form.spread(alpha, weighted.shape[1]) * acc[here] + weighted

    stages = scores, weights, values
    across, down = blocks.k // blocks.chunk, blocks.q // blocks.rows

    def tile_by_tile(i):
        row, column = jax.lax.div(i, across), jax.lax.rem(i, across)
        range_of = lambda ranges, at: Ranges(*(ranges[b, x, at] for x in range(4)), real=None)
        of_queries = range_of(q_ranges, pairs.outer(entry) * down + row)
        of_keys = range_of(k_ranges, pairs.inner(entry) * across + column)

        @pl.when(~masks.nothing(spec.mask, of_queries, of_keys))
        def _():
            part = lambda at, size: pl.ds(pl.multiple_of(at * size, size), size)
            _staged(stages, [(part(row, blocks.rows), part(column, blocks.chunk), True)], apart=0)

    def step(kind):
        if kind == masks.PARTIAL:                              # anything may be EMPTY in it
            pl.loop(0, across * down)(tile_by_tile)
        else:
            _staged(stages, list(_full(blocks) if kind == masks.FULL else _lower(blocks)), apart=int(form.turned))

    on_kind(pairs.kind(entry), step)

    @pl.when(pairs.last(entry))
    def _():
        for i in range(pieces):
            here = form.at(0, piece(i))
            # what sees anything has a total of 1 or more: the highest score's own weight is 1
            share = _inverse(jnp.maximum(total[here], 1.0))
            out[here] = (acc[here] * form.spread(share, acc.shape[1])).astype(out.dtype)
            highest, weight = (top[here], total[here]) if form.turned else as_rows(top[here], total[here])
            lse[:, piece(i)] = jnp.where(weight > 0, (highest + jnp.log2(weight)) / _LOG2_E, -jnp.inf)
            clear(here)                                        # for the next block of queries


def _inverse(x):
    """1 / x, without the care that a division takes of zeros, infinities and denormals."""
    guess = reciprocal(x, approx=True)
    for _ in range(2):                                         # Newton: 8 bits or more, 16, all
        guess *= 2.0 - x * guess
    return guess


def _full(blocks):
    """(queries, keys, masked) of the tiles of a FULL pair; neighbours have no queries, and so no maximum, in common."""
    return [(slice(row, row + blocks.rows), slice(column, column + blocks.wide), False)
            for column in range(0, blocks.k, blocks.wide) for row in range(0, blocks.q, blocks.rows)]


def _lower(blocks):
    """The same of a LOWER pair: masked on its diagonal, none above."""
    for row in range(0, blocks.q, blocks.rows):
        end = row + blocks.rows
        for column in range(0, min(end, blocks.k), blocks.chunk):
            keys, start = slice(column, column + blocks.chunk), row
            if keys.stop > row:
                start = min(keys.stop, end)
                yield slice(max(row, column), start), keys, True
            if start < end:
                yield slice(start, end), keys, False


def _staged(stages, tiles, apart):
    """Takes every tile through the stages, each given what the one before returned, as a software pipeline.

    apart: how many tiles later a stage is than the one before it. 0 leaves it to the scheduler what to overlap.
    """
    passed = {}
    for t in range(len(tiles) + apart * (len(stages) - 1)):
        for lag, stage in enumerate(stages):
            at = t - apart * lag
            if 0 <= at < len(tiles):
                passed[at] = stage(*tiles[at], *passed.pop(at, ()))
