"""The TPU kernels of cross-entropy. Logits exist a chunk of columns at a time, in VMEM.

In both, the matrix units compute a chunk while the vector units are at the one before: two buffers of logits that take
turns, in straight-line code. Running sums are kept per lane, so that no step reduces over lanes.
"""
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.cross_entropy.tpu.sizes import RING
from pallas_kernels.mosaic_tpu import LANES, as_columns, matmul

_LOW = -1e30                 # the maximum of no logits: finite, so that exp(-inf - _LOW) is 0 and not NaN
_NOWHERE = -2**30            # the column of a target outside the vocabulary


def forward(x, head, targets, score, lse, even, odd, hit, top, total, found, *, V, spec):
    """Grid (block of tokens, block of columns).

    x [tokens, D]; head [D, columns]; targets, score, lse [1, tokens]. Scratch: logits even and odd [tokens, chunk], the
    others [tokens, lanes]. The last chunk of a step waits for the next step.
    """
    chunks, chunk, first = (even, odd), even.shape[1], pl.program_id(1) * head.shape[1]

    @pl.when(pl.program_id(1) == 0)
    def _():
        hit[...] = _less_lane(targets, V)
        top[...] = jnp.full_like(top, _LOW)
        total[...] = jnp.zeros_like(total)
        found[...] = jnp.zeros_like(found)

    def add(logits, at):
        inside = jnp.where(at < 0, 0, V - at)                       # at < 0: no step before this one
        pieces = [jnp.where(_lane(top) < inside - i, logits[:, i:i + LANES], -jnp.inf) for i in range(0, chunk, LANES)]
        before = top[...]
        top[...] = functools.reduce(jnp.maximum, pieces, before)
        total[...] = sum((jnp.exp(p - top[...]) for p in pieces), total[...] * jnp.exp(before - top[...]))
        for i, piece in enumerate(pieces):
            found[...] += jnp.where(hit[...] == at + i * LANES, piece, 0.0)

    for i, logits in enumerate(chunks):
        add(chunks[i - 1], first + (i - 1) * chunk)
        logits[...] = spec.cap(matmul(x[...], head[:, i * chunk:(i + 1) * chunk], (1, 0)))

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _():
        add(odd, first + chunk)
        tops = top[...].T
        best = tops.max(0, keepdims=True)
        lse[...] = best + jnp.log((total[...].T * jnp.exp(tops - best)).sum(0, keepdims=True))
        score[...] = found[...].T.sum(0, keepdims=True)


def backward(x, head, targets, lse, dscore, dlse, zeros, dx, dhead, even, odd, d, acc, ring, hit, rows, fetched,
             written, *, V, spec, blocks):
    """Grid (core, block of its columns, block of tokens).

    x [tokens, D]; head, dhead [D, columns]; the others [1, tokens]. dx [core, M, D] float32 stays in HBM, where each
    step adds its share slab by slab, through `ring` [slot, tokens, slab]; it starts as the zeros that it aliases.
    Scratch: logits even and odd [tokens, chunk], their gradients d [tokens, columns], acc [D, columns] float32; hit and
    rows, of lse, dscore and dlse: [tokens, lanes].
    """
    core, block, m = (pl.program_id(axis) for axis in range(3))
    at = (core * pl.num_programs(1) + block) * blocks.columns
    slabs, chunks = x.shape[1] // blocks.slab, blocks.columns // blocks.chunk

    def part(k):
        return dx.at[core, pl.ds(m * blocks.tokens, blocks.tokens), pl.ds(k * blocks.slab, blocks.slab)]

    def fetch(k):
        return pltpu.make_async_copy(part(k), ring.at[k % RING], fetched.at[k % RING])

    def write(k):
        return pltpu.make_async_copy(ring.at[k % RING], part(k), written.at[k % RING])

    def gradient(c):
        for i in range(0, blocks.chunk, LANES):
            logits = (even, odd)[c % 2][:, i:i + LANES]
            column = c * blocks.chunk + i
            p = jnp.where(_lane(hit) < V - at - column, jnp.exp(logits - rows[0]) * rows[2], 0.0)
            p += jnp.where(hit[...] == at + column, rows[1], 0.0)
            d[:, column:column + LANES] = (p * spec.slope(logits)).astype(d.dtype)

    def share(k, _):
        slab = pl.ds(pl.multiple_of(k * blocks.slab, LANES), blocks.slab)
        fetch(k).wait()
        ring[k % RING] += matmul(d[...], head[slab, :], (1, 1))                 # tokens D
        write(k).start()
        acc[slab, :] += matmul(x[:, slab], d[...], (0, 0))                      # D columns

        @pl.when(k + 2 < slabs)
        def _():
            pl.when(k >= 2)(lambda: write(k - 2).wait())                        # its slot is the next one to be filled
            fetch(k + 2).start()

    @pl.when(at < V)                                                            # the last core may have blocks too many
    def _():
        @pl.when(m == 0)
        def _():
            acc[...] = jnp.zeros_like(acc)

        if V % blocks.columns:
            pl.when(at + blocks.columns > V)(lambda: _clear(head, V - at))
        hit[...] = _less_lane(targets, V)
        for i, row in enumerate((lse, dscore, dlse)):
            rows[i] = as_columns(row[...])
        for c in range(chunks):
            columns = slice(c * blocks.chunk, (c + 1) * blocks.chunk)
            (even, odd)[c % 2][...] = spec.cap(matmul(x[...], head[:, columns], (1, 0)))
            if c:
                gradient(c - 1)
            else:
                pl.when(m > 0)(lambda: _wait(write, slabs))                     # of the step before
                for k in range(min(2, slabs)):
                    fetch(k).start()
        gradient(chunks - 1)
        jax.lax.fori_loop(0, slabs, share, None)

        @pl.when(m == pl.num_programs(2) - 1)
        def _():
            dhead[...] = acc[...].astype(dhead.dtype)
            _wait(write, slabs)


def _wait(write, slabs):
    """Waits for the writes of a step that the step itself did not wait for."""
    for k in range(max(slabs - RING, 0), slabs):
        write(k).wait()


def _clear(head, inside):
    """Zeros in the columns from `inside` on, whatever the copy of a block beyond the array's edge has left there."""
    def some(i, _):
        rows = pl.ds(pl.multiple_of(i * LANES, LANES), LANES)
        column = jax.lax.broadcasted_iota(jnp.int32, (LANES, head.shape[1]), 1)
        head[rows, :] = jnp.where(column < inside, head[rows, :], 0.0)

    jax.lax.fori_loop(0, head.shape[0] // LANES, some, None)


def _lane(ref):
    return jax.lax.broadcasted_iota(jnp.int32, ref.shape, 1)


def _less_lane(targets, V):
    """[1, n] -> [n, lanes]: target - lane, which in the target's own lane is where its 128 columns start."""
    target = as_columns(targets[...])
    return jnp.where((target >= 0) & (target < V), target, _NOWHERE) - _lane(target)
