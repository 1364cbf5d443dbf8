"""The model as pure functions of a nested dict of arrays: the only place that calls nnx.split and nnx.merge.

`graph` is the hashable, static rest of the module. Everything runs under `jax.set_mesh(meshes.make(...))`.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Shaped

from longctx import cuts, meshes
from longctx.config import AttentionConfig, MemoryConfig, ModelConfig, RopeConfig
from longctx.errors import UserError
from longctx.loss import token_loss
from longctx.memory import bits
from longctx.model import names
from longctx.model.transformer import Transformer
from pallas_kernels.arguments import AnyArray
from pallas_kernels.masks import TokenInfo

_PLAIN = MemoryConfig()
Batch = Mapping[str, Shaped[AnyArray, "B ..."]]  # [B, T] but for `stretch`, [B]


def graph(config: ModelConfig, attention: AttentionConfig, memory: MemoryConfig = _PLAIN) -> nnx.GraphDef:
    """The static part of the model, made by a trace without arrays. Raises UserError as `init` does."""
    _check(config)
    make = lambda: Transformer(jax.random.key(0), config, attention, memory)
    return nnx.split(jax.eval_shape(make), graph=False)[0]


def init(config: ModelConfig, attention: AttentionConfig, key: Array) -> dict:
    """Fresh parameters: a nested dict of arrays, each born in its sharding.

    Raises UserError for sizes that do not divide one another or by the mesh axes, and for unknown names.
    """
    _check(config)
    return nnx.to_pure_dict(nnx.split(Transformer(key, config, attention, _PLAIN), graph=False)[1])


def _check(config: ModelConfig) -> None:
    if jax.sharding.get_abstract_mesh().empty:
        raise UserError("there is no mesh: call it under jax.set_mesh(meshes.make(MeshConfig())), one device.")
    cuts.check(config, meshes.sizes())
    names.check(config, meshes.sizes())


def merged(graph: nnx.GraphDef, params: dict) -> Transformer:
    """The Transformer module with these parameters."""
    return nnx.merge(graph, params)


def forward_only(params: dict) -> dict:
    """The parameters in a form that forward passes read sooner, and through which no gradient goes; see memory.bits."""
    return params | {"blocks": bits.of(params["blocks"])}


def weight_info(graph: nnx.GraphDef, params: dict) -> dict:
    """The WeightInfo of every parameter, a tree like `params`; of these only the structure is used."""
    return nnx.to_pure_dict(nnx.split(merged(graph, params), graph=False)[1], lambda w: w.info)


def decays(graph: nnx.GraphDef, params: dict) -> dict:
    """Whether weight decay applies to each parameter, a tree of bools like `params`."""
    return jax.tree.map(lambda info: info.decay, weight_info(graph, params))


def hidden(
    graph: nnx.GraphDef, params: dict, batch: Batch, rope: RopeConfig | None = None, length: int | None = None
) -> tuple[Transformer, Float[Array, "B T D"]]:
    """The merged model, and its hidden states BTD for a batch (see data.rows and positions.augment for its entries)."""
    model = merged(graph, params)
    info = TokenInfo(jnp.asarray(batch["positions"]), jnp.asarray(batch["segments"]))
    return model, model(batch["tokens"], info, rope, batch.get("stretch"), length)


def nll(
    graph: nnx.GraphDef, params: dict, batch: Batch, rope: RopeConfig | None = None, length: int | None = None
) -> Float[Array, "B T"]:
    """Negative log-likelihood of each target in nats, float32 [B, T]; the logits never exist as one array.

    With memory.loss_tiles, tokens without weight get 0.
    """
    _, x = hidden(graph, params, batch, rope, length)
    # the backward reduces the head's gradient to its shards before it begins with the layers
    name = "head" if "head" in params else "embedding"
    x, head = jax.lax.optimization_barrier((x, params[name]))
    model = merged(graph, params | {name: head})
    tiles = model.memory.loss_tiles
    return token_loss(
        x,
        model.head_weight(),
        batch["targets"],
        model.config.logit_soft_cap,
        batch["weights"] if tiles else None,
        tiles,
    )


def blocks(graph: nnx.GraphDef, params: dict) -> list:
    """One function per kind of layer: (weights of one layer) -> the layer, a module of model.block.BLOCKS."""
    graphs = [nnx.split(block, graph=False)[0] for block in merged(graph, params).blocks]
    return [functools.partial(nnx.merge, graph) for graph in graphs]


def logits(
    graph: nnx.GraphDef, params: dict, batch: Batch, rope: RopeConfig | None = None, length: int | None = None
) -> Float[Array, "B T V"]:
    """The logits of every token, float32 [B, T, V]: for short inputs."""
    model, x = hidden(graph, params, batch, rope, length)
    return model.logits(x)
