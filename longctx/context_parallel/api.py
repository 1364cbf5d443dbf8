"""`attend`: exact attention over a sequence cut across the `context` axis of the mesh, by any strategy.

A strategy is an implementation of the (out, lse) primitive whose arrays are one device's shards: `forward` and
`backward` with the signatures of local.py. It may cut keys, queries or heads as it likes and calls `kernel` for each
piece. To add one: a file with these two functions, and a line in STRATEGIES. This is the only place that enters
jax.shard_map for it.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from longctx import meshes
from longctx.context_parallel import all_gather, local, ring
from longctx.errors import unknown_name
from pallas_kernels import masks
from pallas_kernels.attention import api as kernels
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import Tokens

STRATEGIES = {"local": local, "all_gather": all_gather, "ring": ring}
AXIS = "context"
_CAUSAL = masks.Causal()


class Plan(NamedTuple):
    """How a call is cut and computed: names in STRATEGIES and in the kernels' IMPLEMENTATIONS (or auto)."""
    strategy: str
    kernel: str


def attend(q, k, v, *, positions=None, segments=None, mask=_CAUSAL, strategy="ring", kernel="auto", scale=None,
           soft_cap=0.0, with_lse=False):
    """Attention of a sequence whose T axis is cut over the mesh's `context` axis (and B, heads over the other axes).

    Call it inside jit under `jax.set_mesh(meshes.make(...))`, or without a mesh for a single device.

    Args:
      q: [B, T, N, H]; k, v: [B, T, K, H] with K dividing N.
      positions: int32 [B, T], the place of each token in its document; default 0..T-1. Under a layout other than
        contiguous the caller passes them permuted as the tokens are.
      segments: int32 [B, T], documents of a packed row, numbered from 1; 0 is padding. Given segments, tokens see only
        their own. Default: one document.
      mask: of pallas_kernels.masks.
      strategy: a name in STRATEGIES; with one context shard every strategy is "local".
      kernel: a name in pallas_kernels.attention.api.IMPLEMENTATIONS, or "auto".
      scale, soft_cap: see AttentionSpec.

    Returns:
      out [B, T, N, H] in q's dtype; with_lse: (out, lse float32 [B, T, N]).

    Raises:
      UserError: unknown strategy. ValueError, NotImplementedError: see kernels.select.
    """
    if strategy not in STRATEGIES:
        raise unknown_name("attention.strategy", strategy, STRATEGIES)
    B, T = q.shape[:2]
    if segments is None:
        segments = jnp.ones((B, T), jnp.int32)
    else:
        mask = mask & masks.Segments()
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    spec = AttentionSpec(mask, scale, soft_cap)
    out, lse = _on_mesh(q, k, v, Tokens(positions, segments), spec, Plan(strategy, kernel))
    return (out, lse) if with_lse else out


def _on_mesh(q, k, v, tokens, spec, plan):
    """Pad T to whole shards, cut, attend, and drop the padding again."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _attend(q, k, v, tokens, spec, Plan("local", plan.kernel))
    shards = mesh.shape[AXIS]
    if shards == 1:
        plan = plan._replace(strategy="local")
    width = -q.shape[1] % shards
    # the padding is of segment 0, which sees nothing
    pad = lambda x: jnp.pad(x, [(0, 0), (0, width)] + [(0, 0)] * (x.ndim - 2)) if width else x
    specs = (meshes.HEADS,) * 3 + (Tokens(meshes.TOKENS, meshes.TOKENS),)
    args = jax.tree.map(lambda x, s: jax.sharding.reshard(pad(x), s), (q, k, v, tokens), specs)
    cut = jax.shard_map(lambda *a: _attend(*a, spec, plan), in_specs=specs, out_specs=(meshes.HEADS, meshes.LSE))
    out, lse = cut(*args)
    if not width:
        return out, lse
    whole = jax.sharding.reshard(out, meshes.WHOLE_HEADS), jax.sharding.reshard(lse, meshes.WHOLE_LSE)
    return tuple(x[:, :-width] for x in whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(q, k, v, tokens, spec: AttentionSpec, plan: Plan):
    """(out, lse) of one device's shards; collectives over AXIS where the strategy is not local."""
    kernel = kernels.select(plan.kernel, q, k, spec)
    return STRATEGIES[plan.strategy].forward(q, k, v, tokens, spec, kernel, AXIS)


def _forward(q, k, v, tokens, spec, plan):
    out, lse = _attend(q, k, v, tokens, spec, plan)
    result = checkpoint_name(out, "attention_out"), checkpoint_name(lse, "attention_lse")
    return result, (q, k, v, tokens, result)


def _backward(spec, plan, saved, cotangent):
    q, k, v, tokens, result = saved
    kernel = kernels.select(plan.kernel, q, k, spec)
    grads = STRATEGIES[plan.strategy].backward(q, k, v, tokens, spec, kernel, AXIS, result, cotangent)
    return *grads, None


_attend.defvjp(_forward, _backward)
