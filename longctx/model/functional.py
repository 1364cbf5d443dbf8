"""The model as pure functions of a nested dict of arrays: the only place that calls nnx.split and nnx.merge.

`graph` is the hashable, static rest of the module. Everything runs under `jax.set_mesh(meshes.make(...))`.
"""

import functools

import jax
from flax import nnx

from longctx import cuts, meshes
from longctx.config import AttentionConfig, MemoryConfig, ModelConfig, RopeConfig
from longctx.errors import UserError
from longctx.loss import target_is_top, token_loss
from longctx.model import names
from longctx.model.transformer import Transformer
from pallas_kernels.masks import TokenInfo

_PLAIN = MemoryConfig()


def graph(config: ModelConfig, attention: AttentionConfig, memory: MemoryConfig = _PLAIN):
    """The static part of the model. Costs a trace, no arrays. Raises UserError as `init`."""
    _check(config)
    make = lambda: Transformer(jax.random.key(0), config, attention, memory)
    return nnx.split(jax.eval_shape(make), graph=False)[0]


def init(config: ModelConfig, attention: AttentionConfig, key):
    """Parameters as a nested dict of arrays, each born in its sharding.

    Raises UserError for sizes that do not divide one another, or by the axes of the mesh, and for unknown names.
    """
    _check(config)
    return nnx.to_pure_dict(nnx.split(Transformer(key, config, attention, _PLAIN), graph=False)[1])


def _check(config: ModelConfig) -> None:
    if jax.sharding.get_abstract_mesh().empty:
        raise UserError("there is no mesh: call it under jax.set_mesh(meshes.make(MeshConfig())), one device.")
    cuts.check(config, meshes.sizes())
    names.check(config)


def merged(graph, params) -> Transformer:
    """The module."""
    return nnx.merge(graph, params)


def hidden(graph, params, batch: dict, rope: RopeConfig | None = None, length: int | None = None):
    """The merged model, and its hidden states BTD on a batch (data.rows and positions.augment say what one holds)."""
    model = merged(graph, params)
    info = TokenInfo(batch["positions"], batch["segments"])
    return model, model(batch["tokens"], info, rope, batch.get("stretch"), length)


def nll(graph, params, batch: dict, rope: RopeConfig | None = None):
    """Negative log-likelihood of each target in nats, float32 [B, T]; no array of logits exists.

    With memory.loss_tiles that of tokens without weight is 0.
    """
    _, x = hidden(graph, params, batch, rope)
    # on the way back the gradient of the head is in its shares before that of the layers begins
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


def blocks(graph, params) -> list:
    """For each kind of layer (weights of one of its layers) -> the layer, one of model.block.BLOCKS."""
    graphs = [nnx.split(block, graph=False)[0] for block in merged(graph, params).blocks]
    return [functools.partial(nnx.merge, graph) for graph in graphs]


def predictions(graph, params, batch: dict, rope: RopeConfig | None = None, length: int | None = None):
    """(nll, top): nats per target, and whether it is what greedy decoding would write; float32 and bool [B, T].

    length: of the rows without the padding that a mesh asks for.
    """
    model, x = hidden(graph, params, batch, rope, length)
    head = model.head_weight()
    return token_loss(x, head, batch["targets"], model.config.logit_soft_cap), target_is_top(x, head, batch["targets"])


def logits(graph, params, batch: dict, rope: RopeConfig | None = None, length: int | None = None):
    """All logits, float32 [B, T, V]: for short inputs."""
    model, x = hidden(graph, params, batch, rope, length)
    return model.logits(x)
