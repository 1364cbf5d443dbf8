"""Attention of a few queries over many keys on TPUs, as a decoding step needs: keys that may be seen are read once.

The query heads of a key head, and the queries of a row, are the rows of one matmul; blocks of keys [H, S] and of values
[S, H] are its other side, which is how longctx/generation/cache.py stores them. Keys may also lie in pages, `paged`,
or among those of other layers, `of_layer`: XLA copies what a Pallas kernel reads out of a stack, and this reads there.
Heads that are narrower than the matrix unit share it: see `_packed`.

The kernel walks one list of the blocks with work in them, of all rows together: short rows do not wait for long ones.
To read takes longer than to compute, so a step has keys of several heads, and much is read at a time.
"""
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from pallas_kernels import masks, mosaic_tpu, tpu_chips
from pallas_kernels.attention import blocks
from pallas_kernels.attention import decode as plain
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, Stack, merge, unsupported
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.tpu import pairs
from pallas_kernels.attention.tpu.parts import LOG2_E, LOW, info_rows, stacked, staged
from pallas_kernels.masks import TokenInfo
from pallas_kernels.mosaic_tpu import LANES, call, like, matmul

_LIST, _ENTRY = 2**19, 12        # bytes of SMEM, which has 2**20, for the list of blocks, and of each of them
_CYCLES = 2560                   # the most that a step's keys and values take to arrive, and more than it computes
_BLOCK, _HEADS = 4096, 8         # the most keys and key heads of a step
_TOGETHER = 128                  # rows of all packs of a step, up to which these take each stage together
_ELSEWHERE = "v5e"               # the chip to choose for where there is none


class Pages(NamedTuple):
    """A pool of pages of keys and values.

    Attributes:
      k: [P, K, H, page].
      v: [P, K, page, H].
      info: positions and segments of the slots, int32 [P, page]; segment 0 is an empty slot.
    """
    k: Float[Array, "P K H page"]
    v: Float[Array, "P K page H"]
    info: TokenInfo


class _Keys(NamedTuple):
    """Keys and values in blocks, wherever these lie.

    Attributes:
      k: [P, K, H, S], or [P, K, H, block] where there is a table.
      v: [P, K, S, H], or [P, K, block, H].
      info: positions and segments of the keys of each row, int32 [B, blocks * block]; segment 0 past the last key.
      table: int32 [B, blocks], the number in P of each block of a row; None where rows lie one after the other.
      first: where they do, the number in P of the first one.
    """
    k: jax.Array
    v: jax.Array
    info: TokenInfo
    table: jax.Array | None = None
    first: jax.Array | int = 0


class _Cut(NamedTuple):
    """What a step works on.

    Attributes:
      pack: key heads side by side in the matrix unit: their keys are one matrix [pack H, keys].
      packs: of these in a step.
      rows: of the queries of a pack.
      block: keys.
      across: whether values are [H, keys], as keys are; so XLA lays out narrow heads by itself, to fill its tiles.
    """
    pack: int
    packs: int
    rows: int
    block: int
    across: bool


def why_not(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why this call cannot be, or None."""
    reason = unsupported(x) or mosaic_tpu.why_not(x.q, platform) or plain.why_not(x, spec, platform)
    return reason or _why_not(x.q, spec, x.k.shape[0], pl.cdiv(x.k.shape[1], cut_of(x, spec).block))


def forward(x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    cut = cut_of(x, spec)
    keys = _Keys(x.k.transpose(0, 2, 3, 1), x.v.swapaxes(1, 2), blocks.pad_info(x.k_info, cut.block))
    pair = _attend(x.q, x.q_info, keys, cut, spec)
    return pair if initial is None else merge(initial, pair)


def backward(x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
    """Gradients of these queries and keys, in plain JAX; see reference.backward."""
    return plain.backward(x, spec, stats)


def why_not_of_layer(q, q_info: TokenInfo, stack: Stack, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why `of_layer` cannot be, or None."""
    if (H := q.shape[3]) % LANES:
        return f"would copy the values of all layers, whose heads have {H} numbers and not a multiple of {LANES}"
    return why_not(_inputs(q, q_info, stack), spec, platform)


def of_layer(q: Float[Array, "B T N H"], q_info: TokenInfo, stack: Stack, spec: AttentionSpec,
             initial: Pair | None = None) -> Pair:
    """The pair of queries over the keys of a layer among stacked ones, of which nothing is copied; see `forward`.

    Raises NotImplementedError for what the kernel cannot do, with the reason.
    """
    if reason := why_not_of_layer(q, q_info, stack, spec, "tpu"):
        raise NotImplementedError(f"the TPU kernel of attention in a stack of layers {reason}")
    cut, rows = cut_of(_inputs(q, q_info, stack), spec), lambda x: x.reshape(-1, *x.shape[2:])
    first = stack.layer * stack.k.shape[1]
    keys = _Keys(rows(stack.k), rows(stack.v), blocks.pad_info(stack.info, cut.block), first=first)
    pair = _attend(q, q_info, keys, cut, spec)
    return pair if initial is None else merge(initial, pair)


def _inputs(q, q_info: TokenInfo, stack: Stack) -> Inputs:
    """The call on the keys of one layer, these as types."""
    B, K, H, S = stack.k.shape[1:]
    keys: Any = jax.ShapeDtypeStruct((B, S, K, H), stack.k.dtype)
    return Inputs(q, keys, keys, q_info, stack.info)


def paged(q: Float[Array, "B T N H"], q_info: TokenInfo, pages: Pages, table: Int[Array, "B pages"],
          spec: AttentionSpec, lengths: Int[Array, " B"] | None = None) -> Pair:
    """The pair of queries over the keys in the pages of their rows; see paged_reference.

    A page is a block of the kernel, so that few tokens in a page are many steps. A page that no query of a row sees
    anything of is not read.

    Raises NotImplementedError for what the kernel cannot do, with the reason.
    """
    reason = plain.why_not(Inputs(q, q, q, q_info, q_info), spec, "tpu") or _why_not(q, spec, *table.shape)
    if reason:
        raise NotImplementedError(f"the TPU kernel of paged attention {reason}")
    K, page = pages.k.shape[1], pages.k.shape[3]
    keys = _Keys(pages.k, pages.v, _info_of_rows(pages, table, lengths), table)
    return _attend(q, q_info, keys, _cut(q, K, page, page), spec)


def paged_reference(q: Float[Array, "B T N H"], q_info: TokenInfo, pages: Pages, table: Int[Array, "B pages"],
                    spec: AttentionSpec, lengths: Int[Array, " B"] | None = None) -> Pair:
    """The pair of queries over the keys in the pages of their rows, in plain JAX: the definition of `paged`.

    Args:
      q: [B, T, N, H], of up to 16 queries; q_info: their positions and segments, [B, T].
      table: int32 [B, pages], which pages a row has, below 0 none. Any order will do: a mask knows positions alone.
      lengths: int32 [B], how many slots of a row, along its pages, hold tokens; None: as many as `pages.info` says.
    """
    (B, _), (K, H) = table.shape, pages.k.shape[1:3]
    of_rows = jnp.maximum(table, 0)
    k = pages.k[of_rows].transpose(0, 1, 4, 2, 3).reshape(B, -1, K, H)
    v = pages.v[of_rows].swapaxes(2, 3).reshape(B, -1, K, H)
    return plain.forward(Inputs(q, k, v, q_info, _info_of_rows(pages, table, lengths)), spec)


def _info_of_rows(pages: Pages, table, lengths) -> TokenInfo:
    """Positions and segments of all slots of each row, int32 [B, pages * page]."""
    B = table.shape[0]
    positions, segments = (x[jnp.maximum(table, 0)] for x in pages.info)
    segments = jnp.where(table[..., None] >= 0, segments, 0).reshape(B, -1)
    if lengths is not None:
        slot = jax.lax.broadcasted_iota(jnp.int32, segments.shape, 1)
        segments = jnp.where(slot < lengths[:, None], segments, 0)
    return TokenInfo(positions.reshape(B, -1), segments)


def _why_not(q, spec, rows: int, count: int) -> str | None:
    """The reason against queries over `count` blocks of keys in each row, or None."""
    if spec.bias:
        return "has no bias on scores"
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"takes bfloat16 or float32 alone, not {q.dtype}"
    if max(rows, count) > pairs.MOST:
        return f"has a list of blocks that counts to {pairs.MOST}, not to {rows} x {count}"
    if (size := _ENTRY * rows * count) > _LIST:
        return f"what it must know of {rows} x {count} blocks takes {size} bytes of scalar memory, and may take {_LIST}"
    return None


def cut_of(x: Inputs, spec) -> _Cut:
    """What a step works on, of a call."""
    S, K = x.k.shape[1:3]
    return _cut(x.q, K, S, min(_whole(spec.block), _whole(S)))


def _cut(q, K: int, length: int, block: int = 0) -> _Cut:
    """What a step works on, of queries [B, T, N, H] over K key heads and `length` keys; block: keys, 0 chooses."""
    T, N, H = q.shape[1:]
    chip = tpu_chips.CHIPS[tpu_chips.current() or _ELSEWHERE]
    step = int(_CYCLES * chip.hbm * 1e9 / (chip.cores * chip.clock))
    bytes_of = lambda heads, tokens: 2 * heads * H * tokens * q.dtype.itemsize
    divisors = [n for n in range(1, K + 1) if K % n == 0]
    pack = max(n for n in divisors if n * H <= max(chip.mxu_size, H))
    fit = [n for n in divisors if n % pack == 0 and n <= _HEADS and bytes_of(n, block or LANES) <= step]
    heads = max([n for n in fit if K // n % chip.cores == 0] or fit or [pack])
    most = max(LANES, 1 << (step // bytes_of(heads, 1)).bit_length() - 1)
    rows = _whole(pack * T * (N // K), 32 // q.dtype.itemsize)
    return _Cut(pack, heads // pack, rows, block or min(most, _BLOCK, _whole(length)), H % LANES != 0)


def _whole(size: int, unit: int = LANES) -> int:
    return pl.cdiv(size, unit) * unit


def _attend(q, q_info: TokenInfo, keys: _Keys, cut: _Cut, spec) -> Pair:
    """The pair of queries [B, T, N, H] over keys."""
    (B, T, N, H), K, length = q.shape, keys.k.shape[1], keys.k.shape[3]
    block_list, places, steps = _walk(spec.mask, q_info, keys, cut.block)
    columns = jnp.repeat(stacked(q_info), N // K, axis=2)[..., None]                                    # B2R1
    columns = blocks.pad(jnp.tile(columns, (1, 1, cut.pack, 1)), 2, cut.rows)
    infos = stacked(keys.info).reshape(B, 2, -1, cut.block).swapaxes(1, 2)
    packed = lambda x: x.reshape(x.shape[0], K // cut.pack, cut.pack * H, length)
    v = packed(keys.v.swapaxes(2, 3)) if cut.across else keys.v
    operands = [block_list, places, columns, infos, blocks.pad(_packed(q, K, cut.pack), 2, cut.rows), packed(keys.k), v]
    kernel = functools.partial(decode, spec=spec, scale=spec.score_scale(H), cut=cut,
                               length=length if length % cut.block else None)
    shape = B, K // cut.pack, cut.rows
    types = [like(q, (*shape, cut.pack * H), spec.result_dtype(q)), like(q, (*shape, 1), jnp.float32)]
    out, lse = call(kernel, _grid(operands, steps, cut), "parallel arbitrary", types, operands)
    R = T * (N // K)
    lse = lse[:, :, : cut.pack * R].reshape(B, K, R, 1)
    return Pair(plain.from_rows(_unpacked(out, cut.pack, R), T), plain.from_rows(lse, T)[..., 0])


def _packed(q, K: int, pack: int):
    """BTNH -> [B, K / pack, pack R, pack H]: the rows R = T x G of a key head have zeros in the columns of others."""
    rows = plain.rows(q, K)                                                                             # BKRH
    B, _, R, H = rows.shape
    rows = rows.reshape(B, -1, pack, R, 1, H)
    own = jnp.eye(pack, dtype=bool)[:, None, :, None]
    return jnp.where(own, rows, 0).reshape(B, -1, pack * R, pack * H)


def _unpacked(out, pack: int, R: int):
    """The inverse of _packed as far as BKRH, without the padding of rows."""
    B, packs, _, width = out.shape
    out = out[:, :, : pack * R].reshape(B, packs, pack, R, pack, width // pack)
    return jnp.stack([out[:, :, i, :, i] for i in range(pack)], 2).reshape(B, packs * pack, R, -1)


def _walk(mask, q_info: TokenInfo, keys: _Keys, block: int):
    """The list of blocks with work in them, int32 [1, entries], as pairs (row, block of the row); where the keys of
    each lie, int32 [2, entries]; and how many entries there are.

    The keys of a row that sees nothing are said to lie where those of the entry before do, which are there already.
    """
    relation = blocks.relations(mask, q_info, keys.info, q_info.positions.shape[1], block)             # B, 1, blocks
    block_list, steps = pairs.pairs(relation.swapaxes(0, 1))
    entry = block_list[0]
    works, at = pairs.kind(entry) != masks.EMPTY, jax.lax.iota(jnp.int32, entry.size)
    before = jax.lax.cummax(jnp.where(works, at, -1))
    source = entry[jnp.where(before < 0, jnp.argmax(works), before)]
    row, number = pairs.outer(source), pairs.inner(source)
    if keys.table is None:
        return block_list, jnp.stack((row + keys.first, number)), steps
    return block_list, jnp.stack((jnp.maximum(keys.table[row, number], 0), jnp.zeros_like(row))), steps


def _grid(operands, steps, cut: _Cut):
    """The grid of `decode`, and which blocks of its operands a step works on."""
    *_, q, _, v = operands
    of_row = lambda h, t, block_list, places: (pairs.outer(block_list[0, t]), h, 0, 0)
    q_info = lambda h, t, block_list, places: (pairs.outer(block_list[0, t]), 0, 0, 0)
    k_info = lambda h, t, block_list, places: (pairs.outer(block_list[0, t]), pairs.inner(block_list[0, t]), 0, 0)
    along = lambda h, t, block_list, places: (places[0, t], h, 0, places[1, t])
    down = lambda h, t, block_list, places: (places[0, t], h, places[1, t], 0)
    width = q.shape[3]
    of_keys = pl.BlockSpec((None, cut.packs, width, cut.block), along)
    heads = cut.packs * cut.pack
    of_values = of_keys if cut.across else pl.BlockSpec((None, heads, cut.block, v.shape[3]), down)
    queries = pl.BlockSpec((None, cut.packs, cut.rows, width), of_row)
    statistics = pltpu.VMEM((cut.packs, cut.rows, 1), jnp.float32)
    return pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(q.shape[1] // cut.packs, steps),
        in_specs=[pl.BlockSpec((None, 2, cut.rows, 1), q_info), pl.BlockSpec((None, None, 2, cut.block), k_info),
                  queries, of_keys, of_values],
        out_specs=[queries, pl.BlockSpec((None, cut.packs, cut.rows, 1), of_row)],
        scratch_shapes=[statistics, statistics, pltpu.VMEM((cut.packs, cut.rows, width), jnp.float32)])


def decode(block_list, places, q_info, k_info, q, k, v, out, lse, top, total, acc, *, spec, scale, cut, length):
    """Grid (packs of a step, entry of block_list); places is for the grid alone.

    Infos: positions and segments, of queries [2, rows, 1], of keys [2, block]. For each pack of key heads: q and out
    [rows, pack H], k [pack H, block], lse [rows, 1]; v likewise, or [block, H] for each key head. Scratch, float32, for
    each pack: top, the highest score, and total, the sum of weights, [rows, 1], acc [rows, pack H]. Scores are in base
    2, for exp2 is what the hardware has.

    length: the keys of a row, of which the last block has fewer than others; None where it has not.
    """
    entry = block_list[0, pl.program_id(1)]
    apart = cut.packs if cut.packs * cut.rows <= _TOGETHER else 1

    @pl.when(pairs.first(entry))
    def _():
        top[...] = jnp.full_like(top, LOW)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    def scores(at, see):
        s = matmul(q[at], k[at], (1, 0))
        s = LOG2_E * spec.soft_cap * jnp.tanh(scale / spec.soft_cap * s) if spec.soft_cap else LOG2_E * scale * s
        s = s if see is None else jnp.where(see, s, -jnp.inf)
        highest = jnp.maximum(top[at], s.max(1, keepdims=True))
        alpha = jnp.exp2(top[at] - highest)
        top[at] = highest
        return s, highest, alpha

    def weights(at, see, s, highest, alpha):
        p = jnp.exp2(s - highest)
        total[at] = alpha * total[at] + p.sum(1, keepdims=True)
        return p, alpha

    def values(at, see, p, alpha):
        part = v[at] if cut.across else jnp.concatenate([v[at * cut.pack + i] for i in range(cut.pack)], 1)
        if length is not None and see is not None:             # what lies past the last key may be NaN
            slot = jax.lax.broadcasted_iota(jnp.int32, part.shape, int(cut.across))
            part = jnp.where(slot < length - pairs.inner(entry) * cut.block, part, 0)
        acc[at] = alpha * acc[at] + matmul(p.astype(v.dtype), part, (1, int(cut.across)))

    def step(masked):
        see = masks.sees(spec.mask, TokenInfo(q_info[0], q_info[1]), info_rows(k_info)) if masked else None
        staged((scores, weights, values), [(at, see) for at in range(cut.packs)], apart)

    pl.when(pairs.kind(entry) == masks.FULL)(lambda: step(masked=False))
    pl.when(pairs.kind(entry) == masks.PARTIAL)(lambda: step(masked=True))

    @pl.when(pairs.last(entry))
    def _():
        weight = total[...]
        # what sees anything has a total of 1 or more: the highest score's own weight is 1
        out[...] = (acc[...] / jnp.maximum(weight, 1.0)).astype(out.dtype)
        lse[...] = jnp.where(weight > 0, (top[...] + jnp.log2(weight)) / LOG2_E, -jnp.inf)
