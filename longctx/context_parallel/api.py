"""`attend`: exact attention over a sequence cut across the context axes of the mesh, by any strategy.

To add a strategy: a file with a subclass of strategy.Strategy, and a line in STRATEGIES. Strategies nest: USP is
Ulysses around a ring, a double ring is a ring of rings. This is the only place that enters jax.shard_map for them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from longctx import layouts, meshes
from longctx.config import Config
from longctx.context_parallel import arguments
from longctx.context_parallel.all_gather import AllGather
from longctx.context_parallel.dispatch import Dispatch
from longctx.context_parallel.lightseq import LightSeq
from longctx.context_parallel.merge import cast, with_sinks
from longctx.context_parallel.ring import Ring
from longctx.context_parallel.rsa import RingSelfAttention
from longctx.context_parallel.strategy import Local, Plan, in_turn
from longctx.context_parallel.token_ring import TokenRing
from longctx.context_parallel.ulysses import Ulysses
from longctx.errors import UserError, unknown_name
from pallas_kernels import masks
from pallas_kernels.attention import api as kernels
from pallas_kernels.attention.reference import merge
from pallas_kernels.attention.spec import AttentionSpec, rows

OUTER, INNER = BOTH = meshes.CONTEXT
SCOPE = "attend"  # of the names of operations in compiled programs, also of the backward's

STRATEGIES = {
    "local": lambda kernel, plan: kernel,
    "all_gather": lambda kernel, plan: AllGather(kernel, BOTH, plan.kv_grads_dtype),
    "ring": lambda kernel, plan: Ring(kernel, BOTH, plan.layout, plan.documents, False, plan.kv_grads_dtype),
    "bidirectional_ring": lambda kernel, plan: Ring(
        kernel, BOTH, plan.layout, plan.documents, True, plan.kv_grads_dtype
    ),
    "double_ring": lambda kernel, plan: Ring(
        Ring(kernel, INNER, kv_grads_dtype=plan.kv_grads_dtype), OUTER, kv_grads_dtype=plan.kv_grads_dtype
    ),
    "token_ring": lambda kernel, plan: TokenRing(kernel, BOTH, plan.layout),
    "ulysses": lambda kernel, plan: Ulysses(kernel, BOTH, plan.kv_heads),
    "usp": lambda kernel, plan: Ulysses(Ring(kernel, OUTER, kv_grads_dtype=plan.kv_grads_dtype), INNER, plan.kv_heads),
    "lightseq": lambda kernel, plan: LightSeq(kernel, BOTH, plan.layout, plan.kv_grads_dtype),
    "dispatch": lambda kernel, plan: Dispatch(kernel, BOTH, plan.kv_grads_dtype),
    "rsa": lambda kernel, plan: RingSelfAttention(BOTH),
}
_CAUSAL = masks.Causal()


def attend(
    q,
    k,
    v,
    *,
    positions=None,
    segments=None,
    mask=_CAUSAL,
    strategy="ring",
    kernel="auto",
    layout=None,
    scale=None,
    soft_cap=0.0,
    bias=None,
    table=None,
    sinks=None,
    kv_grads_dtype="float32",
    head_groups=1,
    with_lse=False,
):
    """Attention of a sequence whose T axis is cut over the mesh's context axes (and B, heads over the other axes).

    Call it under `jax.set_mesh(meshes.make(...))`, in jit or eagerly, or without a mesh for a single device.
    `attention` is the same for arrays in their natural order.

    Args:
      q: [B, T, N, H]; k, v: [B, T, K, H] with K dividing N, T of any length; of one floating-point dtype. Where the
        pairs of tokens fall into parts that are rotated differently, q and k are tuples, of one array for each part.
      positions: integers [B, T], the place of each token in its document, increasing along it; default: T tokens in
        `layout`, whose pieces T must then divide by ("contiguous" has none).
      segments: integers [B, T], documents of a packed row, numbered from 1; 0 is padding. Given segments, tokens see
        only their own. Default: one document.
      mask: of pallas_kernels.masks; a tuple of disjoint ones where q and k are tuples.
      strategy: a name in STRATEGIES; with one context shard every strategy is "local".
      kernel: a name in pallas_kernels.attention.api.IMPLEMENTATIONS, or "auto".
      layout: for longctx.layouts.parse, the order that the caller has put the tokens in; default "contiguous" without
        `positions`, unknown with them. Over a known one, hops that a window makes needless are not sent.
      scale, soft_cap: see AttentionSpec.
      bias, table: of pallas_kernels.attention.bias, such as Alibi(), and its numbers [N, D]; differentiable.
      sinks: [N], learned logits of a key without value that every token sees (gpt-oss); differentiable.
      kv_grads_dtype: in which dK and dV travel between devices.
      head_groups: so many groups of a device's key heads, with their query heads, attend one after another.

    Returns:
      out [B, T, N, H] in q's dtype; with_lse: (out, lse float32 [B, T, N]).

    Raises:
      UserError: unknown strategy or layout; arrays that do not go together, or whose positions or segments are below 0
        (where they are known: not under a trace); a call that cannot be cut like this.
      NotImplementedError: see kernels.select.
    """
    if strategy not in STRATEGIES:
        raise unknown_name("attention.strategy", strategy, STRATEGIES)
    if kernel != "auto" and kernel not in kernels.IMPLEMENTATIONS:
        raise unknown_name("attention.kernel", kernel, {"auto", *kernels.IMPLEMENTATIONS})
    queries, keys, v, tokens = arguments.sequence(q, k, v, positions, segments)
    B, T, N = queries[0].shape[:3]
    table, sinks = (None if x is None else jnp.asarray(x) for x in (table, sinks))
    specs = arguments.specs(mask, len(queries), N, table, sinks, scale=scale, bias=bias, soft_cap=soft_cap)
    sizes = meshes.sizes()
    arguments.check_cut(queries[0], v, sizes, head_groups, kv_grads_dtype)
    shards = sizes[OUTER], sizes[INNER]
    if positions is None:
        layout = layout or "contiguous"
        tokens = tokens._replace(positions=_default_positions(layout, (B, T), shards[0] * shards[1], segments))
    elif layout not in (None, "contiguous"):
        layouts.check(layout, T, shards[0] * shards[1])
    heads = _of_group((N, v.shape[2]), sizes["tensor"] * head_groups)
    plan = Plan(
        "local" if shards == (1, 1) else strategy, kernel, shards, *heads, layout, segments is not None, kv_grads_dtype
    )
    for spec in specs:
        check(plan, spec.mask)
    if segments is None:
        tokens = tokens._replace(segments=jnp.ones((B, T), jnp.int32))
    else:
        specs = tuple(dataclasses.replace(spec, mask=spec.mask & masks.Segments()) for spec in specs)
    call = _attend if jax.sharding.get_abstract_mesh().empty else _on_mesh
    table = None if table is None else table.astype(jnp.float32)
    with jax.named_scope(SCOPE):
        out, lse = call(queries, keys, v, tokens, table, specs, plan)
    if sinks is not None:
        out, lse = with_sinks(out, lse, sinks)
    return (out, lse) if with_lse else out


def attention(q, k, v, *, segments=None, layout="zigzag", **how):
    """Attention over a sequence in its natural order, cut over the devices of the mesh: for its own sake.

        with jax.set_mesh(meshes.all_context()):                # every device there is
            out = attention(q, k, v, mask=Causal() & Window(4096))

    q: [B, T, N, H]; k, v: [B, T, K, H], T of any length; segments, each one run of tokens, and **how as for `attend`.
    Returns what `attend` does, in natural order. Raises as it does. For training, put the tokens into the layout once,
    in the data pipeline, and call `attend` in every layer.
    """
    queries, keys, v, (_, documents) = arguments.sequence(q, k, v, segments=segments)
    arguments.check_runs(documents)
    (B, T), sizes = v.shape[:2], meshes.sizes()
    shards = sizes[OUTER] * sizes[INNER]
    width = -T % layouts.unit(layout, shards)
    order = _order(layout, T + width, shards, segments)
    if width and documents is None:  # the padding is of segment 0, which sees nothing
        documents = jnp.ones((B, T), jnp.int32)
    unmeshed = jax.sharding.get_abstract_mesh().empty
    whole = lambda x: x if unmeshed else jax.sharding.reshard(x, meshes.REPLICATED)
    pad = lambda x: jnp.pad(x, [(0, 0), (0, width)] + [(0, 0)] * (x.ndim - 2)) if width else x
    laid = lambda tree: jax.tree.map(lambda x: pad(whole(x))[:, order[0]], tree)
    positions = None if documents is None else _positions(whole(documents))
    result = attend(
        laid(queries), laid(keys), laid(v), positions=laid(positions), segments=laid(documents), layout=layout, **how
    )
    return jax.tree.map(lambda x: whole(x)[:, layouts.inverse(order)[0, :T]], result)


def plan_of(config: Config) -> Plan:
    """How the model of a run cuts its attention."""
    model, how, mesh = config.model, config.attention, config.mesh
    shards = mesh.context_outer, mesh.context
    heads = _of_group((model.heads, model.kv_heads), mesh.tensor * config.memory.head_groups)
    return Plan(
        "local" if shards == (1, 1) else how.strategy, how.kernel, shards, *heads, how.layout, True, how.kv_grads_dtype
    )


def check(plan: Plan, mask: masks.Mask) -> None:
    """Raises UserError where the plan's strategy cannot cut such a call; says why and what would work."""
    if plan.strategy == "local" and plan.shards != (1, 1):
        raise UserError(
            f"attention.strategy='local' sees the keys of one shard, and there are {plan.shards[0]} x "
            f"{plan.shards[1]} context shards; 'ring' takes any number."
        )
    reason = STRATEGIES[plan.strategy](Local(plan.kernel), plan).why_not(plan, mask)
    if reason:
        raise UserError(f"attention.strategy={plan.strategy!r} does not work here: {reason}.")


def _on_mesh(queries, keys, v, tokens, table, specs, plan):
    """Pad T to whole shards, cut, attend, and drop the padding again."""
    width = -v.shape[1] % (plan.shards[0] * plan.shards[1])
    # the padding is of segment 0, which sees nothing
    pad = lambda x: jnp.pad(x, [(0, 0), (0, width)] + [(0, 0)] * (x.ndim - 2)) if width else x
    sequences = queries, keys, v, tokens
    cuts = jax.tree.map(lambda x: meshes.TOKENS if x.ndim == 2 else meshes.HEADS, sequences)
    args = jax.tree.map(lambda x, s: jax.sharding.reshard(pad(x), s), sequences, cuts)
    if table is not None:
        table = jax.sharding.reshard(table, meshes.HEAD_TABLE)

    def cut(queries, keys, v, tokens, table):
        if table is not None:  # its gradient is the sum over everything that shares it
            table = jax.lax.pcast(table, (*meshes.BATCH, *meshes.CONTEXT), to="varying")
        return _attend(queries, keys, v, tokens, table, specs, plan)

    out, lse = jax.shard_map(
        cut, in_specs=(*cuts, None if table is None else meshes.HEAD_TABLE), out_specs=(meshes.HEADS, meshes.LSE)
    )(*args, table)
    if not width:
        return out, lse
    whole = jax.sharding.reshard(out, meshes.WHOLE_HEADS), jax.sharding.reshard(lse, meshes.WHOLE_LSE)
    return tuple(x[:, :-width] for x in whole)


def _of_group(heads: tuple[int, int], parts: int) -> list[int]:
    """[query heads, key heads] of one of so many parts of them."""
    return [count // parts for count in heads]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(queries, keys, v, tokens, table, specs: tuple[AttentionSpec, ...], plan: Plan):
    """(out, lse) of one device's shards; collectives over the context axes where the strategy is not local.

    queries, keys, specs: one for each part of the pairs. As many heads at a time as the plan is for.
    """
    return _forward(queries, keys, v, tokens, table, specs, plan)[0]


def _forward(queries, keys, v, tokens, table, specs, plan):
    strategy = STRATEGIES[plan.strategy](Local(plan.kernel), plan)

    def group(queries, keys, v, table):
        held, parts = [], []
        for q, k, spec in zip(queries, keys, specs, strict=True):
            ready = in_turn(plan, (q, k, v, (tokens, tokens)), parts[-1][1] if parts else q)
            held.append(strategy.exchange(*ready, table))
            parts.append(strategy.forward(*held[-1][:-1], spec, held[-1][-1]))
        return held, cast(functools.reduce(merge, parts), queries[0].dtype)

    groups = v.shape[2] // plan.kv_heads
    if groups == 1:
        held, result = group(queries, keys, v, table)
    else:
        rows = None if table is None else table.reshape(groups, -1, table.shape[1])
        held, result = jax.lax.map(lambda x: group(*x), (*_cut_heads((queries, keys, v), groups), rows))
        result = _joined_heads(result)
    result = checkpoint_name(result[0], "attention_out"), checkpoint_name(result[1], "attention_lse")
    return result, (held, result)


def _backward(specs, plan, saved, cotangent):
    held, result = saved
    strategy, needed = STRATEGIES[plan.strategy](Local(plan.kernel), plan), rows(result, cotangent)

    def group(held, needed):
        parts = []
        for part, spec in zip(held, specs, strict=True):
            *ready, here = in_turn(plan, part, parts[-1][0] if parts else needed.delta)
            parts.append(strategy.backward(*ready, spec, needed, here))
        dqs, dks, *shared = zip(*parts, strict=True)
        dv, dtable = (functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), grads) for grads in shared)
        q, k, v, *_ = zip(*held, strict=True)
        rounded = lambda grads, like: jax.tree.map(lambda g, x: g.astype(x.dtype), grads, like)
        return (rounded(dqs, q), rounded(dks, k), rounded(dv, v[0])), dtable

    groups = result[0].shape[2] // plan.heads
    if groups == 1:
        grads, dtable = group(held, needed)
    else:
        grads, dtable = jax.lax.map(lambda x: group(*x), (held, _cut_heads(needed, groups)))
        grads, dtable = _joined_heads(grads), jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), dtable)
    return *grads, None, dtable


def _cut_heads(tree, groups: int):
    """[B, T, heads, ...] -> [groups, B, T, heads / groups, ...]"""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(*x.shape[:2], groups, -1, *x.shape[3:]), 2, 0), tree)


def _joined_heads(tree):
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1, *x.shape[4:]), tree)


_attend.defvjp(_forward, _backward)


def _default_positions(layout, shape, shards, segments):
    """int32 [B, T], those of one document in a layout; of a contiguous one, any T."""
    order = np.arange(shape[1])[None] if layout == "contiguous" else _order(layout, shape[1], shards, segments)
    return jnp.broadcast_to(order.astype(np.int32), shape)


def _order(layout, length, shards, segments):
    """The permutation [1, length] of a layout that is the same for every row."""
    if segments is not None and layouts.parse(layout).by_row:
        raise UserError(
            f"attention.layout={layout!r} depends on the documents of each row: lay the rows out with "
            "layouts.lay_out, positions among them, and give attend those."
        )
    return layouts.permutation(layout, np.ones((1, length), np.int32), shards)


def _positions(segments):
    """The place of each token in its document, from the segments of whole rows in natural order."""
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
    starts = segments != jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
