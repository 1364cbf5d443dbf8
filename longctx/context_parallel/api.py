"""Exact attention over a sequence that is sharded over the context axes of the mesh, by any strategy.

`attention` is for arrays and keywords, `attend` for a model, whose arrays and settings have been checked before. To add
a strategy: a file with a subclass of strategy.Strategy, and a line in STRATEGIES. Strategies nest: USP is Ulysses
around a ring, a double ring is a ring of rings. This is the only place that enters jax.shard_map for them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Integer

from longctx import layouts, meshes
from longctx.config import AttentionConfig, Config
from longctx.context_parallel import arguments
from longctx.context_parallel.all_gather import AllGather
from longctx.context_parallel.collectives import shared
from longctx.context_parallel.cost import Call, Cost
from longctx.context_parallel.dispatch import Dispatch
from longctx.context_parallel.lightseq import LightSeq
from longctx.context_parallel.plan import INNER, OUTER, CallPlan
from longctx.context_parallel.ring import BidirectionalRing, DoubleRing, Ring
from longctx.context_parallel.rsa import RingSelfAttention
from longctx.context_parallel.strategy import Local, Strategy, in_turn
from longctx.context_parallel.token_ring import TokenRing
from longctx.context_parallel.ulysses import USP, Ulysses
from longctx.errors import UserError
from pallas_kernels import masks
from pallas_kernels.arguments import AnyArray
from pallas_kernels.attention import api as kernels
from pallas_kernels.attention.bias import Bias
from pallas_kernels.attention.pair import Inputs, Pair, cast, merge, row_stats, unsupported, with_sinks
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo

SCOPE = "attend"  # of the names of operations in compiled programs, also of the backward's

# in this order attention.strategy="auto" takes strategies that are about as fast: the simplest first
STRATEGIES = {
    "local": Local,
    "ring": Ring,
    "bidirectional_ring": BidirectionalRing,
    "token_ring": TokenRing,
    "double_ring": DoubleRing,
    "usp": USP,
    "ulysses": Ulysses,
    "dispatch": Dispatch,
    "all_gather": AllGather,
    "lightseq": LightSeq,
    "rsa": RingSelfAttention,
}
_CAUSAL = masks.Causal()
Queries = Float[AnyArray, "B T N H"]
Keys = Float[AnyArray, "B T K H"]
Numbers = Integer[AnyArray, "B T"]


def attention(
    q: Queries | tuple[Queries, ...],
    k: Keys | tuple[Keys, ...],
    v: Keys,
    *,
    mask: masks.Mask | tuple[masks.Mask, ...] = _CAUSAL,
    segments: Numbers | None = None,
    positions: Numbers | None = None,
    strategy: str = "ring",
    layout: str | None = "zigzag",
    kernel: str = "auto",
    scale: float | None = None,
    soft_cap: float = 0.0,
    bias: Bias | None = None,
    bias_params: Float[AnyArray, "N D"] | None = None,
    sinks: Float[AnyArray, " N"] | None = None,
    kv_grads_dtype: str = "float32",
    head_groups: int = 1,
    with_lse: bool = False,
) -> Float[Array, "B T N H"] | Pair:
    """Attention over a sequence that is sharded over the devices of the mesh.

        with jax.set_mesh(meshes.all_context()):                # every device there is
            out = attention(q, k, v, mask=Causal() & Window(4096))

    Call it under `jax.set_mesh(meshes.make(...))`, in jit or eagerly, or without a mesh for a single device. Without
    `positions` arrays are in natural order: they are laid out, and the result is put back. With them they lie as the
    caller has laid them out, once for many layers, over the mesh's context axes (B, and heads, over the other axes).

    Args:
      q: [B, T, N, H]; k, v: [B, T, K, H] with K dividing N, T of any length; of one floating-point dtype. Where the
        pairs of tokens fall into parts that are rotated differently, q and k are tuples, of one array for each part.
      mask: of pallas_kernels.masks; a tuple of disjoint ones where q and k are tuples.
      segments: integers [B, T], documents of a packed row, numbered from 1; 0 is padding. Given segments, tokens see
        only their own; without positions each document must be one run of tokens. Default: one document.
      positions: integers [B, T], the place of each token in its document, increasing along it.
      strategy: a name in STRATEGIES; with one context shard every strategy is "local".
      layout: for longctx.layouts.parse, the order of the tokens on the shards; with positions also None, unknown. Over
        a known one, hops that a window makes needless are not sent.
      kernel: a name in pallas_kernels.attention.api.IMPLEMENTATIONS, or "auto".
      scale, soft_cap: see AttentionSpec.
      bias, bias_params: of pallas_kernels.attention.bias, such as Alibi(), and its numbers [N, D]; differentiable.
      sinks: [N], learned logits of a key without value that every token sees (gpt-oss); differentiable.
      kv_grads_dtype: in which dK and dV travel between devices.
      head_groups: into how many groups a device's key heads fall, which attend one after another.

    Returns:
      out [B, T, N, H] in q's dtype; with_lse: Pair(out, lse float32 [B, T, N]).

    Raises:
      UserError: unknown strategy or layout; arrays that do not go together, or whose positions or segments are below 0
        (where they are known: not under a trace); a call that cannot be sharded like this.
      NotImplementedError: see kernels.select.
    """
    how = AttentionConfig(kernel, strategy, layout, kv_grads_dtype)
    arguments.check_names(how, STRATEGIES)
    x = arguments.inputs(q, k, v, TokenInfo(positions, segments), bias_params)
    sinks = None if sinks is None else jnp.asarray(sinks)
    specs = arguments.specs(mask, x, sinks, scale=scale, bias=bias, soft_cap=soft_cap)
    x, restored = (x, lambda pair: pair) if positions is not None else _laid_out(x, layout)
    documents = x.q_info.segments is not None
    if documents:
        specs = within_documents(specs)
    else:
        info = x.q_info._replace(segments=jnp.ones(x.v.shape[:2], jnp.int32))
        x = x._replace(q_info=info, k_info=info)
    plan = call_plan(x, how, head_groups, documents)
    registered = STRATEGIES[plan.strategy], kernels.IMPLEMENTATIONS.get(kernel)
    pair = restored(_compiled(registered, specs, plan, x, sinks))
    return pair if with_lse else pair.out


@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _compiled(registered, specs, plan, x, sinks) -> Pair:
    """`attend` as one program: called eagerly, it would be hundreds of them, each compiled by itself. Inline in others.

    registered: what the plan's names stand for now, so that another entry of the same name is not taken for this one.
    """
    del registered
    return attend(x, specs, plan, sinks)


def attend(
    x: Inputs, specs: tuple[AttentionSpec, ...], plan: CallPlan, sinks: Float[Array, " N"] | None = None
) -> Pair:
    """The pair, out in the queries' dtype, of a sequence that lies on the mesh in the layout of the plan.

    Args:
      x: q and k are tuples, of one array for each part of the pairs, q [B, T, N, H] and k [B, T, K, H]; all else as in
        a call of a kernel, queries and keys being of the same tokens.
      specs: of each part; partial where there are several. See within_documents.
      plan: see call_plan.
      sinks: [N], learned logits of a key without value, or None.

    Raises UserError where the plan's strategy cannot shard such a call; NotImplementedError: see kernels.select.
    """
    if reason := unsupported(x):
        raise NotImplementedError(f"attention {reason}.")
    for spec in specs:
        check(plan, spec.mask)
    if x.bias_params is not None:
        x = x._replace(bias_params=x.bias_params.astype(jnp.float32))
    call = _attend if jax.sharding.get_abstract_mesh().empty else _on_mesh
    with jax.named_scope(SCOPE):
        pair = call(x, specs, plan)
    return pair if sinks is None else with_sinks(pair, sinks)


def within_documents(specs: Iterable[AttentionSpec]) -> tuple[AttentionSpec, ...]:
    """The specs under which tokens see only their own documents."""
    return tuple(dataclasses.replace(spec, mask=masks.within_documents(spec.mask)) for spec in specs)


def call_plan(x: Inputs, how: AttentionConfig, head_groups: int = 1, documents: bool = True) -> CallPlan:
    """The CallPlan of `attend` on these inputs, under the mesh that is set.

    documents: whether rows are packed documents. Raises UserError for unknown names, and where the mesh or the layout
    does not divide the arrays.
    """
    arguments.check_names(how, STRATEGIES)
    sizes = meshes.sizes()
    arguments.check_mesh(x, sizes, head_groups)
    shards = sizes[OUTER], sizes[INNER]
    if how.layout not in (None, "contiguous"):
        layouts.check(how.layout, x.v.shape[1], shards[0] * shards[1])
    heads = x.q[0].shape[2], x.v.shape[2]
    return _plan(how, shards, heads, sizes["tensor"] * head_groups, documents)


def plan_of(config: Config) -> CallPlan:
    """The CallPlan of the model of a run."""
    model, mesh = config.model, config.mesh
    shards, parts = (mesh.context_outer, mesh.context), mesh.tensor * config.memory.head_groups
    return _plan(config.attention, shards, (model.heads, model.kv_heads), parts, documents=True)


def _plan(how: AttentionConfig, shards, heads, parts, documents) -> CallPlan:
    strategy = "local" if shards == (1, 1) else how.strategy
    heads = (count // parts for count in heads)
    return CallPlan(strategy, how.kernel, shards, *heads, how.layout, documents, how.kv_grads_dtype)


def strategy_of(plan: CallPlan) -> Strategy:
    """The strategy that a plan names, around the kernel that it names."""
    return STRATEGIES[plan.strategy].make(Local(plan.kernel), plan)


def cost(call: Call) -> Cost:
    """What one call sends, by the strategy of its plan, in closed form."""
    return strategy_of(call.plan).cost(call)


def check(plan: CallPlan, mask: masks.Mask) -> None:
    """Raises UserError where the plan's strategy cannot shard such a call; says why and what would work."""
    if plan.strategy == "local" and plan.shards != (1, 1):
        raise UserError(
            f"attention.strategy='local' sees the keys of one shard, and there are {plan.shards[0]} x "
            f"{plan.shards[1]} context shards; 'ring' takes any number."
        )
    q, k = (jax.ShapeDtypeStruct((1, 1, heads, 1), jnp.float32) for heads in (plan.heads, plan.kv_heads))
    info = TokenInfo(*[jax.ShapeDtypeStruct((1, 1), jnp.int32)] * 2)
    x = Inputs(q, k, k, info, info)  # a token of each row: what a strategy looks at is the heads
    if reason := strategy_of(plan).why_not(x, AttentionSpec(mask), platform=None):
        raise UserError(f"attention.strategy={plan.strategy!r} does not work here: {reason}.")


def _on_mesh(x: Inputs, specs, plan) -> Pair:
    """The pair, with T padded to whole shards, sharded, and the padding dropped again."""
    width = -x.v.shape[1] % (plan.shards[0] * plan.shards[1])
    # the padding is of segment 0, which sees nothing
    pad = lambda y: jnp.pad(y, [(0, 0), (0, width)] + [(0, 0)] * (y.ndim - 2)) if width else y
    tokens = x._replace(bias_params=None)
    specs_of = jax.tree.map(lambda y: meshes.TOKENS if y.ndim == 2 else meshes.HEADS, tokens)
    tokens = jax.tree.map(lambda y, spec: jax.sharding.reshard(pad(y), spec), tokens, specs_of)
    params, params_spec = x.bias_params, None
    if params is not None:
        params, params_spec = jax.sharding.reshard(params, meshes.HEAD_TABLE), meshes.HEAD_TABLE

    def local(tokens, params):
        return _attend(tokens._replace(bias_params=shared(params)), specs, plan)

    out_specs = Pair(meshes.HEADS, meshes.LSE)
    pair = jax.shard_map(local, in_specs=(specs_of, params_spec), out_specs=out_specs)(tokens, params)
    if not width:
        return pair
    whole = jax.tree.map(jax.sharding.reshard, pair, Pair(meshes.WHOLE_HEADS, meshes.WHOLE_LSE))
    return jax.tree.map(lambda y: y[:, :-width], whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(x: Inputs, specs: tuple[AttentionSpec, ...], plan: CallPlan) -> Pair:
    """The pair of one device's shards; collectives over the context axes where the strategy is not local.

    x.q, x.k, specs: one for each part of the pairs. As many heads attend at a time as the plan is for.
    """
    return _forward(x, specs, plan)[0]


def _forward(x, specs, plan):
    strategy = strategy_of(plan)

    def group(x):
        held, pairs = [], []
        for part, spec in zip(_parts(x), specs, strict=True):
            part = in_turn(plan, part, pairs[-1].lse if pairs else part.q)
            held.append(strategy.exchange(part))
            pairs.append(strategy.forward(held[-1], spec))
        return held, cast(functools.reduce(merge, pairs), x.q[0].dtype)

    groups = x.v.shape[2] // plan.kv_heads
    if groups == 1:
        held, pair = group(x)
    else:
        params = None if x.bias_params is None else x.bias_params.reshape(groups, -1, x.bias_params.shape[1])
        by_group = *_split_heads((x.q, x.k, x.v), groups), params
        of_group = lambda q, k, v, params: x._replace(q=q, k=k, v=v, bias_params=params)
        held, pair = jax.lax.map(lambda arrays: group(of_group(*arrays)), by_group)
        pair = _joined_heads(pair)
    pair = Pair(checkpoint_name(pair.out, "attention_out"), checkpoint_name(pair.lse, "attention_lse"))
    return pair, (held, pair)


def _backward(specs, plan, saved, cotangent):
    held, pair = saved
    strategy, stats = strategy_of(plan), row_stats(pair, cotangent)

    def group(held, stats):
        grads = []
        for part, spec in zip(held, specs, strict=True):
            part = in_turn(plan, part, grads[-1].dq if grads else stats.delta)
            grads.append(strategy.backward(part, spec, stats))
        dq, dk, dv, dbias = zip(*grads, strict=True)
        like = tuple(part.q for part in held), tuple(part.k for part in held), held[0].v
        rounded = jax.tree.map(lambda grad, y: grad.astype(y.dtype), (dq, dk, _total(dv)), like)
        return rounded, _total(dbias)

    groups = pair.out.shape[2] // plan.heads
    if groups == 1:
        (dq, dk, dv), dbias = group(held, stats)
    else:
        grads, dbias = jax.lax.map(lambda each: group(*each), (held, _split_heads(stats, groups)))
        dq, dk, dv = _joined_heads(grads)
        dbias = jax.tree.map(lambda y: y.reshape(-1, y.shape[-1]), dbias)
    return (Inputs(dq, dk, dv, q_info=None, k_info=None, bias_params=dbias),)


_attend.defvjp(_forward, _backward)


def _total(grads):
    """The sum of the gradients of parts; None where there are none."""
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), grads)


def _parts(x: Inputs) -> list[Inputs]:
    """The inputs of each part of the pairs."""
    return [x._replace(q=q, k=k) for q, k in zip(x.q, x.k, strict=True)]


def _split_heads(tree, groups: int):
    """[B, T, heads, ...] -> [groups, B, T, heads / groups, ...]"""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(*x.shape[:2], groups, -1, *x.shape[3:]), 2, 0), tree)


def _joined_heads(tree):
    """The inverse of _split_heads."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1, *x.shape[4:]), tree)


def _laid_out(x: Inputs, layout: str) -> tuple[Inputs, Callable[[Pair], Pair]]:
    """(inputs in a layout, padded to whole pieces, with positions; a function that puts a pair back in order).

    x: in natural order, on any devices, without positions; segments may be None.
    """
    documents, (B, T), sizes = x.q_info.segments, x.v.shape[:2], meshes.sizes()
    arguments.check_runs(documents)
    shards = sizes[OUTER] * sizes[INNER]
    width = -T % layouts.unit(layout, shards)
    arrangement = _arrangement(layout, T + width, shards, documents)
    if width and documents is None:  # the padding is of segment 0, which sees nothing
        documents = jnp.ones((B, T), jnp.int32)
    unmeshed = jax.sharding.get_abstract_mesh().empty
    whole = lambda y: y if unmeshed else jax.sharding.reshard(y, meshes.REPLICATED)
    pad = lambda y: jnp.pad(y, [(0, 0), (0, width)] + [(0, 0)] * (y.ndim - 2)) if width else y
    laid = lambda tree: arrangement.apply(jax.tree.map(lambda y: pad(whole(y)), tree))
    if documents is None:
        info = TokenInfo(jnp.broadcast_to(arrangement.order.astype(np.int32), (B, T)), None)
    else:
        info = laid(TokenInfo(_positions(whole(documents)), documents))
    q, k, v = laid((x.q, x.k, x.v))
    restored = lambda pair: jax.tree.map(lambda y: y[:, :T], arrangement.undo(jax.tree.map(whole, pair)))
    return x._replace(q=q, k=k, v=v, q_info=info, k_info=info), restored


def _arrangement(layout, length, shards, segments) -> layouts.Arrangement:
    """The arrangement of a layout that is the same for every row of this length."""
    if segments is not None and layouts.parse(layout).by_row:
        raise UserError(
            f"attention.layout={layout!r} depends on the documents of each row: lay the rows out with "
            "layouts.lay_out, positions among them, and give attention those."
        )
    return layouts.arrange(layout, np.ones((1, length), np.int32), shards)


def _positions(segments):
    """The place of each token in its document, from the segments of whole rows in natural order."""
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
    starts = segments != jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
