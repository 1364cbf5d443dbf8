"""Every shard gathers all keys and values once; dK and dV go home by one reduce-scatter.

Bytes leaving each device: (C-1) blocks of K and V forward; the same again backward, and as much for dK and dV.
"""
import dataclasses

import jax


def forward(q, k, v, tokens, spec, kernel, axis):
    k, v, k_tokens = _gather((k, v, tokens), axis)
    return kernel.forward(q, k, v, (tokens, k_tokens), spec)


def backward(q, k, v, tokens, spec, kernel, axis, result, cotangent):
    dtypes = [spec.result_dtype(x) for x in (q, k, v)]
    k, v, k_tokens = _gather((k, v, tokens), axis)
    partial = dataclasses.replace(spec, partial=True)                 # the sum over shards is taken in float32
    dq, dk, dv = kernel.backward(q, k, v, (tokens, k_tokens), partial, result, cotangent)
    dk, dv = (jax.lax.psum_scatter(x, axis, scatter_dimension=1, tiled=True) for x in (dk, dv))
    return tuple(x.astype(dtype) for x, dtype in zip((dq, dk, dv), dtypes, strict=True))


def _gather(tree, axis):
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis, axis=1, tiled=True), tree)
