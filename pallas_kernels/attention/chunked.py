"""Flash attention in plain JAX: linear memory, EMPTY blocks skipped, no mask work on FULL blocks. Runs anywhere.

Forward, for each block of queries: a loop over its FULL key blocks, then one over its PARTIAL ones, with an online
softmax. Backward, for each block of keys: the same two loops over query blocks, with scores transposed. Both loops
have bounds read from a table that is built on the device from the blocks' position and segment ranges, so that every
layout, packed row and ring step skips what its own mask leaves empty, with one compiled body.

Every matmul is laid out as [M, K] x [K, N] with K last on the left and first on the right: XLA's CPU matmuls run 1.3
to 3 times faster in this form than with a transposed operand, which is what decides the transposes below.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import masks
from pallas_kernels.attention import bias, blocks
from pallas_kernels.attention.spec import AttentionSpec, Rows, accumulator, cap, cap_slope
from pallas_kernels.masks import Tokens

BLOCKS = ((2048, 256), (float("inf"), 512))  # up to this length, this block: short rows gain more from skipping
_LOW = -1e30  # stands in for -inf: exp(_LOW - _LOW) is finite, and PARTIAL blocks zero it by their mask


def why_not(q, k, spec: AttentionSpec, platform: str) -> str | None:
    """None: plain JAX covers everything, anywhere."""
    return None


def forward(q, k, v, tokens, spec: AttentionSpec, table=None, before=None):
    """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    (B, T, N), K = q.shape[:3], k.shape[2]
    q_block, k_block = _block(spec, T), _block(spec, k.shape[1])
    q_tokens, k_tokens = blocks.pad_tokens(tokens[0], q_block), blocks.pad_tokens(tokens[1], k_block)
    plan = blocks.schedule(blocks.relations(spec.mask, q_tokens, k_tokens, q_block, k_block))
    before = before and (_blocks(before[0], q_block), _blocks(before[1][..., None], q_block))
    queries = _blocks(q, q_block), _token_blocks(q_tokens, q_block), plan, before  # each B n ...
    keys = _columns(k, K, k_block), _blocks(v, k_block), _token_blocks(k_tokens, k_block)  # each B m ...

    def task(at):
        b, i = at
        q, q_tok, here, before = jax.tree.map(lambda x: x[b, i], queries)
        key_block = lambda j: jax.tree.map(lambda x: x[b, j], keys)
        before = before and (_rows(before[0], K), _rows(before[1], K)[..., 0])
        out, lse = _forward_block(_rows(q, K), q_tok, here, key_block, spec, table, before)
        return _from_rows(out, N).astype(spec.result_dtype(q)), _from_rows(lse[..., None], N)[..., 0]

    n = queries[0].shape[1]
    out, lse = jax.lax.map(task, (jnp.repeat(jnp.arange(B), n), jnp.tile(jnp.arange(n), B)))
    return out.reshape(B, -1, *out.shape[2:])[:, :T], lse.reshape(B, -1, N)[:, :T]


def _forward_block(q, q_tok, plan, keys, spec, table, before):
    """out [K, G*q, H] and lse [K, G*q] of one block of queries q [K, G*q, H] over its active key blocks.

    keys: j -> (keys [K, H, k], values [k, K, H], tokens [k]) of key block j. before: (out, lse) to go on from, or None.
    """
    acc_dtype = accumulator(q)
    scale = spec.score_scale(q.shape[-1])

    def step(masked, i, carry):
        top, total, acc = carry
        k_cols, v, k_tok = keys(plan.order[i])
        s = scale * jnp.matmul(q, k_cols, preferred_element_type=acc_dtype)
        if spec.bias:
            s = s + bias.scores(spec.bias, table, q_tok, k_tok).reshape(s.shape)
        s = cap(s, spec.soft_cap)
        see = _see(spec, q_tok, k_tok, q.shape[1]) if masked else None
        s = jnp.where(see, s, _LOW) if masked else s
        new_top = jnp.maximum(top, s.max(-1))
        p = jnp.exp(s - new_top[..., None])
        p = jnp.where(see, p, 0.0) if masked else p
        alpha = jnp.exp(top - new_top)
        v = _rows(v, q.shape[0])
        acc = acc * alpha[..., None] + jnp.matmul(p.astype(q.dtype), v, preferred_element_type=acc_dtype)
        return new_top, total * alpha + p.sum(-1), acc

    carry = _start(q) if before is None else _onward(*before)
    carry = jax.lax.fori_loop(0, plan.full, lambda i, c: step(False, i, c), carry)
    top, total, acc = jax.lax.fori_loop(plan.full, plan.active, lambda i, c: step(True, i, c), carry)
    some = total > 0
    total = jnp.where(some, total, 1.0)
    return acc / total[..., None], jnp.where(some, top + jnp.log(total), -jnp.inf)


def _start(q):
    """The online softmax of no keys: highest score, sum of weights, and of weighted values."""
    zero = jnp.zeros_like(q[..., 0], accumulator(q))
    return zero + _LOW, zero, jnp.zeros_like(q, accumulator(q))


def _onward(out, lse):
    """The same of a result: as of a single key, whose score is lse and whose value is out."""
    some = jnp.isfinite(lse)
    return jnp.where(some, lse, _LOW), some.astype(out.dtype), out


def backward(q, k, v, tokens, spec: AttentionSpec, rows: Rows, table=None):
    """(dq, dk, dv, dtable) of these keys and queries; see reference.backward."""
    (B, T, N), (S, K) = q.shape[:3], k.shape[1:3]
    q_block, k_block = _block(spec, T), _block(spec, S)
    q_tokens, k_tokens = blocks.pad_tokens(tokens[0], q_block), blocks.pad_tokens(tokens[1], k_block)
    plan = blocks.schedule(blocks.relations(spec.mask, q_tokens, k_tokens, q_block, k_block).swapaxes(-1, -2))
    # a row that sees nothing has only masked pairs: any value does
    lse = jnp.where(jnp.isfinite(rows.lse), rows.lse, 0.0)
    dout = rows.dout.astype(q.dtype)
    columns = [_columns(x, K, q_block) for x in (q, dout, lse[..., None], rows.delta[..., None])]  # each B n K . G*q
    queries = columns, [_blocks(x, q_block) for x in (q, dout)], _token_blocks(q_tokens, q_block)
    keys = _blocks(k, k_block), _blocks(v, k_block), _token_blocks(k_tokens, k_block), plan  # each B m ...

    def row(b):
        mine, tasks = jax.tree.map(lambda x: x[b], (queries, keys))
        sums = jnp.zeros_like(mine[0][0], accumulator(q)), None if table is None else jnp.zeros_like(table)
        sums, (dk, dv) = jax.lax.scan(lambda sums, task: _backward_block(sums, *task, mine, spec, table), sums, tasks)
        dq, dtable = sums  # n K H G*q, N D
        return jax.lax.map(lambda x: _from_rows(x.swapaxes(-1, -2), N).astype(spec.result_dtype(q)), dq), dk, dv, dtable

    dq, dk, dv, dtable = jax.lax.map(row, jnp.arange(B))
    join = lambda x, like: x.reshape(B, -1, *like.shape[2:])[:, : like.shape[1]]
    return join(dq, q), join(dk, k), join(dv, v), None if table is None else dtable.sum(0)


def _backward_block(sums, k, v, k_tok, plan, queries, spec, table):
    """`sums` with this key block's share added, and its (dk, dv), each [k, K, H]; k, v: [k, K, H].

    sums: (dq [n, K, H, G*q], dtable [N, D] or None).
    """
    acc_dtype = accumulator(k)
    scale = spec.score_scale(k.shape[-1])
    (q_cols, do_cols, lse, delta), (qs, dos), q_tok = queries
    K = k.shape[1]
    k, v = _rows(k, K), _rows(v, K)  # K k H
    k_cols = _transposed(k)  # K H k
    matmul = lambda a, b: jnp.matmul(a.astype(k.dtype), b, preferred_element_type=acc_dtype)

    def step(masked, i, carry):
        dq, dtable, dk, dv = carry
        j = plan.order[i]
        here = Tokens(q_tok.positions[j], q_tok.segments[j])
        s = scale * matmul(k, q_cols[j])  # K k G*q
        if spec.bias:
            s = s + bias.scores(spec.bias, table, here, k_tok).reshape(K, s.shape[2], -1).swapaxes(-1, -2)
        s = cap(s, spec.soft_cap)
        p = jnp.exp(s - lse[j])
        if masked:
            see = _see(spec, here, k_tok, q_cols.shape[-1])
            p = jnp.where(see.swapaxes(-1, -2), p, 0.0)
        dv = dv + matmul(p, _rows(dos[j], K))
        ds = p * (matmul(v, do_cols[j]) - delta[j]) * cap_slope(s, spec.soft_cap)
        if spec.bias:
            by_head = ds.swapaxes(-1, -2).reshape(table.shape[0], -1, ds.shape[1])  # N q k
            dtable = dtable + bias.table_gradient(spec.bias, table, here, k_tok, by_head)
        ds = (ds * scale).astype(k.dtype)
        dk = dk + matmul(ds, _rows(qs[j], K))
        return dq.at[j].add(matmul(k_cols, ds)), dtable, dk, dv

    carry = (*sums, jnp.zeros_like(k, acc_dtype), jnp.zeros_like(v, acc_dtype))
    carry = jax.lax.fori_loop(0, plan.full, lambda i, c: step(False, i, c), carry)
    *sums, dk, dv = jax.lax.fori_loop(plan.full, plan.active, lambda i, c: step(True, i, c), carry)
    out = lambda x, like: _from_rows(x, K).astype(spec.result_dtype(like))
    return tuple(sums), (out(dk, k), out(dv, v))


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


def _see(spec, q_tok, k_tok, rows):
    """Visibility [1, rows, k] of one pair of blocks; rows = G * q, the same for every group and key head."""
    see = masks.visible(spec.mask, q_tok, k_tok)
    return jnp.tile(see, (rows // see.shape[0], 1))[None]


def _token_blocks(tokens, block):
    return Tokens(*(x.reshape(x.shape[0], -1, block) for x in tokens))


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
