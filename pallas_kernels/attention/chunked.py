"""Flash attention in plain JAX: linear memory, EMPTY blocks skipped, no mask work on FULL blocks. Runs anywhere.

Forward, for each block of queries: a loop over its FULL key blocks, then one over its PARTIAL ones, with an online
softmax. Backward, for each block of keys: the same two loops over query blocks, with scores transposed. Both loops
have bounds read from a Schedule that is made on the device from the blocks' position and segment ranges, so that every
layout, packed row and ring step skips what its own mask leaves empty, with one compiled body.

Every matmul is laid out as [M, K] x [K, N] with K last on the left and first on the right: XLA's CPU matmuls run 1.3
to 3 times faster in this form than with a transposed operand, which is what decides the transposes below.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.attention import bias, blocks
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, unsupported
from pallas_kernels.attention.spec import AttentionSpec, accumulator, cap, cap_slope
from pallas_kernels.masks import TokenInfo

BLOCKS = ((2048, 256), (float("inf"), 512))  # up to this length, this block: short rows gain more from skipping
_LOW = -1e30  # stands in for -inf: exp(_LOW - _LOW) is finite, and PARTIAL blocks zero it by their mask


def why_not(x: Inputs, spec: AttentionSpec, platform: str) -> str | None:
    """The reason why this call cannot be: plain JAX covers everything, anywhere, that is supported at all."""
    return unsupported(x)


def forward(x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
    """The pair (out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    (B, T, N), K = x.q.shape[:3], x.k.shape[2]
    q_block, k_block = _block(spec, T), _block(spec, x.k.shape[1])
    q_info, k_info = blocks.pad_info(x.q_info, q_block), blocks.pad_info(x.k_info, k_block)
    schedule = blocks.schedule(blocks.relations(spec.mask, q_info, k_info, q_block, k_block))
    initial = initial and (_blocks(initial.out, q_block), _blocks(initial.lse[..., None], q_block))
    queries = _blocks(x.q, q_block), _info_blocks(q_info, q_block), schedule, initial  # each B n ...
    keys = _columns(x.k, K, k_block), _blocks(x.v, k_block), _info_blocks(k_info, k_block)  # each B m ...

    def task(index):
        b, i = index
        q, q_info, visits, initial = jax.tree.map(lambda x: x[b, i], queries)
        key_block = lambda j: jax.tree.map(lambda x: x[b, j], keys)
        initial, q = initial and (_rows(initial[0], K), _rows(initial[1], K)[..., 0]), _rows(q, K)
        start = _start(q) if initial is None else _resumed(*initial)
        out, lse = _forward_block(start, (q, q_info), visits, key_block, spec, x.bias_params)
        return _from_rows(out, N).astype(spec.result_dtype(q)), _from_rows(lse[..., None], N)[..., 0]

    n = queries[0].shape[1]
    out, lse = jax.lax.map(task, (jnp.repeat(jnp.arange(B), n), jnp.tile(jnp.arange(n), B)))
    return Pair(out.reshape(B, -1, *out.shape[2:])[:, :T], lse.reshape(B, -1, N)[:, :T])


def _forward_block(start, queries, visits: blocks.Schedule, keys, spec, bias_params):
    """The pair, out [K, G*q, H] and lse [K, G*q], of one block of queries over its active key blocks.

    start: of the online softmax (highest score, sum of weights, and of weighted values); queries: (q [K, G*q, H],
    info [q]); keys: j -> (keys [K, H, k], values [k, K, H], info [k]) of key block j.
    """
    q, q_info = queries
    acc_dtype, scale = accumulator(q), spec.score_scale(q.shape[-1])
    late = scale > 0 and not spec.bias and not spec.soft_cap  # scaled with the exponential, in one pass over scores

    def step(masked, i, carry):
        top, total, acc = carry
        k_cols, v, k_info = keys(visits.order[i])
        s = jnp.matmul(q, k_cols, preferred_element_type=acc_dtype)
        s = s if late else scale * s
        if spec.bias:
            s = s + bias.scores(spec.bias, bias_params, q_info, k_info).reshape(s.shape)
        s = cap(s, spec.soft_cap)
        s = jnp.where(_see(spec, q_info, k_info, q.shape[1]), s, -jnp.inf) if masked else s
        factor = scale if late else 1.0
        new_top = jnp.maximum(top, factor * s.max(-1))  # finite, as `top` always is
        p = jnp.exp(factor * s - new_top[..., None])
        alpha = jnp.exp(top - new_top)
        v = _rows(v, q.shape[0])
        acc = acc * alpha[..., None] + jnp.matmul(p.astype(q.dtype), v, preferred_element_type=acc_dtype)
        return new_top, total * alpha + p.sum(-1), acc

    carry = jax.lax.fori_loop(0, visits.full, lambda i, c: step(False, i, c), start)
    top, total, acc = jax.lax.fori_loop(visits.full, visits.active, lambda i, c: step(True, i, c), carry)
    seen = total > 0
    total = jnp.where(seen, total, 1.0)
    return acc / total[..., None], jnp.where(seen, top + jnp.log(total), -jnp.inf)


def _start(q):
    """The online softmax of no keys: highest score, sum of weights, and of weighted values."""
    zero = jnp.zeros_like(q[..., 0], accumulator(q))
    return zero + _LOW, zero, jnp.zeros_like(q, accumulator(q))


def _resumed(out, lse):
    """The online softmax of a pair: of a single key, whose score is lse and whose value is out."""
    seen = jnp.isfinite(lse)
    return jnp.where(seen, lse, _LOW), seen.astype(out.dtype), out


def backward(x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
    """Gradients of these queries and keys; see reference.backward."""
    (B, T, N), (S, K) = x.q.shape[:3], x.k.shape[1:3]
    q_block, k_block = _block(spec, T), _block(spec, S)
    q_info, k_info = blocks.pad_info(x.q_info, q_block), blocks.pad_info(x.k_info, k_block)
    schedule = blocks.schedule(blocks.relations(spec.mask, q_info, k_info, q_block, k_block).swapaxes(-1, -2))
    # a row that sees nothing has only masked pairs: any value does
    lse = jnp.where(jnp.isfinite(stats.lse), stats.lse, 0.0)
    dout, params = stats.dout.astype(x.q.dtype), x.bias_params
    columns = [_columns(y, K, q_block) for y in (x.q, dout, lse[..., None], stats.delta[..., None])]  # each B n K . G*q
    queries = columns, [_blocks(y, q_block) for y in (x.q, dout)], _info_blocks(q_info, q_block)
    keys = _blocks(x.k, k_block), _blocks(x.v, k_block), _info_blocks(k_info, k_block), schedule  # each B m ...

    def row(b):
        row_queries, tasks = jax.tree.map(lambda x: x[b], (queries, keys))
        like = row_queries[0][0]
        sums = jnp.zeros_like(like, accumulator(like)), None if params is None else jnp.zeros_like(params)
        block = lambda sums, task: _backward_block(sums, task, row_queries, spec, params)
        (dq, dbias), (dk, dv) = jax.lax.scan(block, sums, tasks)  # dq n K H G*q, dbias N D
        rounded = lambda x: _from_rows(x.swapaxes(-1, -2), N).astype(spec.result_dtype(like))
        return jax.lax.map(rounded, dq), dk, dv, dbias

    dq, dk, dv, dbias = jax.lax.map(row, jnp.arange(B))
    join = lambda x, like: x.reshape(B, -1, *like.shape[2:])[:, : like.shape[1]]
    return Grads(join(dq, x.q), join(dk, x.k), join(dv, x.v), None if params is None else dbias.sum(0))


def _backward_block(sums, keys, queries, spec, bias_params):
    """`sums` with the share of one block of keys added, and its (dk, dv), each [k, K, H].

    sums: (dq [n, K, H, G*q], dbias [N, D] or None). keys: k and v [k, K, H], their info and visits.
    queries: all blocks, (columns of q, dout, lse and delta; rows of q and dout; info).
    """
    k, v, k_info, visits = keys
    (q_cols, do_cols, lse, delta), (qs, dos), infos = queries
    acc_dtype, scale, K = accumulator(k), spec.score_scale(k.shape[-1]), k.shape[1]
    k, v = _rows(k, K), _rows(v, K)  # K k H
    k_cols = _transposed(k)  # K H k
    matmul = lambda a, b: jnp.matmul(a.astype(k.dtype), b, preferred_element_type=acc_dtype)

    def step(masked, i, carry):
        dq, dbias, dk, dv = carry
        j = visits.order[i]
        q_info = TokenInfo(infos.positions[j], infos.segments[j])
        s = scale * matmul(k, q_cols[j])  # K k G*q
        if spec.bias:
            added = bias.scores(spec.bias, bias_params, q_info, k_info)
            s = s + added.reshape(K, s.shape[2], -1).swapaxes(-1, -2)
        s = cap(s, spec.soft_cap)
        p = jnp.exp(s - lse[j])
        if masked:
            see = _see(spec, q_info, k_info, q_cols.shape[-1])
            p = jnp.where(see.swapaxes(-1, -2), p, 0.0)
        dv = dv + matmul(p, _rows(dos[j], K))
        ds = p * (matmul(v, do_cols[j]) - delta[j]) * cap_slope(s, spec.soft_cap)
        if spec.bias:
            by_head = ds.swapaxes(-1, -2).reshape(bias_params.shape[0], -1, ds.shape[1])  # N q k
            dbias = dbias + bias.params_gradient(spec.bias, bias_params, q_info, k_info, by_head)
        ds = (ds * scale).astype(k.dtype)
        dk = dk + matmul(ds, _rows(qs[j], K))
        return dq.at[j].add(matmul(k_cols, ds)), dbias, dk, dv

    carry = (*sums, jnp.zeros_like(k, acc_dtype), jnp.zeros_like(v, acc_dtype))
    carry = jax.lax.fori_loop(0, visits.full, lambda i, c: step(False, i, c), carry)
    *sums, dk, dv = jax.lax.fori_loop(visits.full, visits.active, lambda i, c: step(True, i, c), carry)
    rounded = lambda x, like: _from_rows(x, K).astype(spec.result_dtype(like))
    return tuple(sums), (rounded(dk, k), rounded(dv, v))


def _block(spec: AttentionSpec, length: int) -> int:
    """The block for a side of this length: never much longer than the side itself."""
    block = spec.block or next(block for longest, block in BLOCKS if length <= longest)
    return min(block, -(-length // 16) * 16)


def _transposed(x):
    """x with its last two axes swapped, as an array of its own.

    Without the barrier XLA may fold the transpose back into the matmul that uses it, a form that is slow on the CPU,
    and in bfloat16 with float32 results not implemented there.
    """
    return jax.lax.optimization_barrier(x.swapaxes(-1, -2))


def _see(spec, q_info, k_info, rows):
    """Visibility [1, rows, k] of one pair of blocks; rows = G * q, equal for every group and key head."""
    see = masks.visible(spec.mask, q_info, k_info)
    return jnp.tile(see, (rows // see.shape[0], 1))[None]


def _info_blocks(info, block):
    """Positions and segments [B, T] -> [B, n, block]."""
    return TokenInfo(*(x.reshape(x.shape[0], -1, block) for x in info))


def _blocks(x, block):
    """BTNH -> B n q N H, padded to whole blocks."""
    x = blocks.pad(x, 1, block)
    return x.reshape(x.shape[0], -1, block, *x.shape[2:])


def _rows(x, K):
    """One block [q, N, H] -> [K, G*q, H]: the G query heads of a key head share its matmuls."""
    q, N, H = x.shape
    return x.reshape(q, K, N // K, H).transpose(1, 2, 0, 3).reshape(K, -1, H)


def _from_rows(x, N):
    """[K, G*q, H] -> [q, N, H]."""
    K, rows, H = x.shape
    return x.reshape(K, N // K, -1, H).transpose(2, 0, 1, 3).reshape(-1, N, H)


def _columns(x, K, block):
    """BTNH -> B n K H G*q, every block transposed once for all its visits."""
    x = _blocks(x, block)
    B, n, q, N, H = x.shape
    x = x.reshape(B, n, q, K, N // K, H).transpose(0, 1, 3, 5, 4, 2)
    return jax.lax.optimization_barrier(x.reshape(B, n, K, H, -1))
