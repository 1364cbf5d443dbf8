"""Split-K attention of a few queries on GPUs in Triton, as a decoding step needs: each key and value is read once.

A row with one query has work for one processor per key head, and a GPU has over a hundred: so the list of a row's
blocks of keys is split, a program takes each part, and their pairs merge. EMPTY blocks are on no list, so that the
parts are alike however full a cache is. Keys are read as [B, K, H, S] and values as [B, K, S, H], which is how
longctx/generation/cache.py stores them; keys stream fastest where S is a multiple of 8. split_forward.py holds the
kernel; triton and jax-triton are needed only where a program is lowered for a GPU.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import gpu_chips, triton_call
from pallas_kernels.attention import blocks, decode
from pallas_kernels.attention.pair import Inputs, Pair, cast, merge
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.triton import blocks as triton_blocks
from pallas_kernels.attention.triton import kernel as flash

ROWS = 16, 64                # the fewest and the most queries of a key head that a program takes; the least is tl.dot's
FULL_ENOUGH = 0.9            # of the best use of processors: more splits than that takes cost more to merge


class Sizes(NamedTuple):
    """Queries of a key head and keys that a program multiplies at a time, its warps, and stages of its pipeline."""
    rows: int
    keys: int
    warps: int
    stages: int


def why_not(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why this call cannot be, or None."""
    if x.q.shape[1] > decode.QUERIES:
        return f"takes up to {decode.QUERIES} queries of a row, not {x.q.shape[1]}"
    if reason := flash.why_not_call(x, spec, platform):
        return reason
    if reason := triton_blocks.why_not_size(spec.block):
        return reason
    most, need = gpu_chips.block_shared(gpu_chips.capability()), shared(choose(x, spec.block), x)
    too_large = f"blocks of {spec.block} tokens take {need} bytes of shared memory, and may take {most}"
    return too_large if need > most else None


def forward(x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    from pallas_kernels.attention.triton.split_forward import split_forward
    (B, T, N, H), (S, K), sizes = x.q.shape, x.k.shape[1:3], choose(x, spec.block)
    k_info = blocks.pad_info(x.k_info, sizes.keys)
    visits = blocks.schedule(blocks.relations(spec.mask, x.q_info, k_info, T, sizes.keys))
    scale, cap = spec.score_scale(H), spec.soft_cap
    parts = splits(gpu_chips.processors() * resident(sizes, x), programs(x), -(-S // sizes.keys))
    results = [jax.ShapeDtypeStruct((parts, *shape), jnp.float32) for shape in (x.q.shape, x.q.shape[:3])]
    pairs = Pair(*triton_call.call(
        split_forward, (x.q, x.k.transpose(0, 2, 3, 1), x.v.swapaxes(1, 2), *x.q_info, *x.k_info, *visits),
        tuple(results), (parts, programs(x) // B, B), sizes.warps, sizes.stages, B=B, T=T, S=S, N=N, K=K, H=H,
        SPLITS=parts, ROWS=sizes.rows, BLOCK=sizes.keys, SCALE=scale, CAP=cap, EXPONENT=(cap or scale) / math.log(2),
        MASK=flash.program(spec.mask)))
    pair = cast(_merged(pairs), spec.result_dtype(x.q))
    return pair if initial is None else merge(initial, pair)


backward = decode.backward


def splits(slots: int, each: int, key_blocks: int) -> int:
    """The number of parts that blocks of keys are cut into: the fewest that keep a GPU about as busy as any can.

    Programs run in waves of up to `slots` at a time, and the last wave may be a small one.

    Args:
      slots: programs that the GPU holds at a time.
      each: programs that share a part of the keys.
      key_blocks: of a row; a part has one at least.
    """
    used = [n * each / (slots * -(-n * each // slots)) for n in range(1, min(key_blocks, slots) + 1)]
    return next(n for n, part in enumerate(used, 1) if part >= FULL_ENOUGH * max(used))


def programs(x: Inputs) -> int:
    """How many programs share a part of the keys: rows x key heads, or more where a head has more queries than ROWS."""
    (B, T, N, _), K = x.q.shape, x.k.shape[2]
    return B * K * -(-T * N // K // choose(x, 0).rows)


def choose(x: Inputs, block: int) -> Sizes:
    """The Sizes for a call on the traced device; of `block` keys if not 0."""
    (_, T, N, H), K = x.q.shape, x.k.shape[2]
    rows = min(max(ROWS[0], 1 << (T * N // K - 1).bit_length()), ROWS[1])
    if block:
        return Sizes(rows, block, 4, 3)
    largest = Sizes(rows, 64 if H > 64 else 128, 4, 5)
    smaller = largest._replace(stages=3), largest._replace(keys=32, stages=3)
    most = gpu_chips.block_shared(gpu_chips.capability())
    return next(sizes for sizes in (largest, *smaller) if shared(sizes, x) <= most)


def resident(sizes: Sizes, x: Inputs) -> int:
    """How many programs a processor holds at a time, by its shared memory."""
    return max(1, gpu_chips.block_shared(gpu_chips.capability()) // shared(sizes, x))


def shared(sizes: Sizes, x: Inputs) -> int:
    """Bytes of shared memory that a program takes, at most: a rule fitted to what Triton 3.8 reports."""
    rows, keys, _, stages = sizes
    H, width = x.q.shape[-1], x.q.dtype.itemsize
    buffers = (stages + 1) // 2 if rows == 64 else (stages - 1) // 2
    return buffers * keys * (2 * H * width + 8) + rows * (H + keys) * width + 16


def _merged(pairs: Pair) -> Pair:
    """The pair over all keys from those of the parts, along a first axis, by the formula of pair.merge."""
    top = pairs.lse.max(0, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weight = jnp.exp(pairs.lse - top)
    total = weight.sum(0, keepdims=True)
    safe = jnp.where(total > 0, total, 1.0)
    lse = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)
    return Pair((pairs.out * (weight / safe)[..., None]).sum(0), lse[0])
