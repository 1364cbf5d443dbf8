"""Ring attention (arXiv 2310.01889): K/V blocks travel round the context axis while every shard keeps its queries.

Forward: C-1 hops, each sent before the block that it overlaps is computed; partial results merge in float32.
Backward: the same C-1 hops for K/V, and C-1 for the dK/dV that travel with them, a hop behind: a block's own shard
adds its own share at home. Which token sits where is the layout's business; block pairs that the mask leaves EMPTY
cost nothing in the kernel.
"""
import dataclasses

import jax
import jax.numpy as jnp

from longctx.context_parallel.merge import cast, merge


def forward(q, k, v, tokens, spec, kernel, axis):
    dtype, spec = spec.result_dtype(q), dataclasses.replace(spec, partial=True)
    attend = lambda block: kernel.forward(q, block[0], block[1], (tokens, block[2]), spec)
    block = (k, v, tokens)

    def hop(carry, _):
        block, result = carry
        arriving = _send(block, axis)
        return (arriving, merge(result, attend(block))), None

    if (shards := jax.lax.axis_size(axis)) == 1:
        return cast(attend(block), dtype)
    arriving = _send(block, axis)
    result = attend(block)
    (block, result), _ = jax.lax.scan(hop, (arriving, result), None, length=shards - 2)
    return cast(merge(result, attend(block)), dtype)


def backward(q, k, v, tokens, spec, kernel, axis, result, cotangent):
    dtypes, spec = [spec.result_dtype(x) for x in (q, k, v)], dataclasses.replace(spec, partial=True)
    pull = lambda block: kernel.backward(q, block[0], block[1], (tokens, block[2]), spec, result, cotangent)
    block = (k, v, tokens)

    def hop(carry, _):
        """`grads` are the travelling (dk, dv) of `block`, which other shards have added to already."""
        block, grads, dq = carry
        arriving = _send(block, axis)
        dq_here, *grads_here = pull(block)
        return (arriving, _send(jax.tree.map(jnp.add, grads, grads_here), axis), dq + dq_here), None

    if (shards := jax.lax.axis_size(axis)) == 1:
        return tuple(x.astype(dtype) for x, dtype in zip(pull(block), dtypes, strict=True))
    arriving = _send(block, axis)
    dq, *home = pull(block)
    grads = [jnp.zeros_like(x) for x in home]
    (block, grads, dq), _ = jax.lax.scan(hop, (arriving, grads, dq), None, length=shards - 2)
    dq_last, *grads_last = pull(block)
    grads = _send(jax.tree.map(jnp.add, grads, grads_last), axis)
    dk, dv = jax.tree.map(jnp.add, home, grads)
    return tuple(x.astype(dtype) for x, dtype in zip((dq + dq_last, dk, dv), dtypes, strict=True))


def _send(tree, axis):
    """Every leaf to the next shard of the ring."""
    shards = jax.lax.axis_size(axis)
    to_next = [(i, (i + 1) % shards) for i in range(shards)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, to_next), tree)
