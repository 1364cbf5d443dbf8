"""Low-rank adapters (LoraConfig): which weights of a model have them, and what they make of the weights when merged."""

import functools
import zlib
from collections.abc import Iterator

import jax
from flax import nnx

from longctx import meshes
from longctx.config import LoraConfig, MemoryConfig, ModelConfig
from longctx.errors import UserError
from longctx.model import paths
from longctx.model.block import BLOCKS
from longctx.model.linear import Adapted, summed

TABLE, HEAD = "embedding.table", "head"  # weights outside of layers that can be adapted where they are not one


def adapted(key, block: nnx.Module, at: str, lora: LoraConfig) -> nnx.Module:
    """The block of a kind of layers, with Adapted in place of the weights that lora.targets name.

    key: of the layer; the weights of the block itself are drawn as without adapters. at: the block's path.
    """
    for path, owner, name in targets(block, at):
        _adapt(key, owner, name, path, lora)
    return block


def adapt_ends(key, model, lora: LoraConfig) -> None:
    """Puts Adapted in place of the embedding and the head of a Transformer, where lora.targets name them."""
    _adapt(key, model.embedding, "table", TABLE, lora, fan_in=1)  # a token is one row of a
    _adapt(key, model, "head", HEAD, lora)


def _adapt(key, owner: nnx.Module, name: str, path: str, lora: LoraConfig, fan_in: int = 0) -> None:
    if is_target(lora, path):
        own = jax.random.fold_in(key, zlib.crc32(path.encode()) >> 1)
        setattr(owner, name, Adapted(own, getattr(owner, name), lora, fan_in))


def is_target(lora: LoraConfig, path: str) -> bool:
    """Whether the weight at a path has an adapter."""
    return lora.rank > 0 and any(paths.matches(pattern, path) for pattern in lora.targets)


def targets(block: nnx.Module, at: str) -> list[tuple[str, nnx.Module, str]]:
    """(path, the module that has it, its name there) of each weight of a block, at a path, that can be adapted."""

    def below(module: nnx.Module, at: str) -> Iterator[tuple[str, nnx.Module, str]]:
        for name, value in vars(module).items():
            if isinstance(value, nnx.Module):
                yield from below(value, f"{at}.{name}")
            elif isinstance(value, nnx.Param) and value.info.inputs:
                yield f"{at}.{name}", module, name

    return list(below(block, at))


def merged(params: dict, config: ModelConfig) -> dict:
    """The parameters of the model without adapters: base + alpha / rank * a b, computed in float32, in base's dtype.

    Under `jax.set_mesh`; as they are where config.lora is off.
    """
    if paths.is_adapted(params):
        base, *factors = (params[name] for name in (paths.BASE, *paths.ADAPTERS))
        return _summed(base, *factors, config.lora.alpha / config.lora.rank)
    return {name: merged(value, config) if isinstance(value, dict) else value for name, value in params.items()}


@jax.jit
def _summed(base, a, b, scale):
    """base + scale a b, in base's dtype."""
    return summed(base, a, b, scale).astype(base.dtype)


def without(params: dict) -> dict:
    """The parameters of the model without adapters, their bases alone."""
    if paths.is_adapted(params):
        return params[paths.BASE]
    return {name: without(value) if isinstance(value, dict) else value for name, value in params.items()}


def based(params: dict, like: dict) -> dict:
    """Parameters in the places that they have beside adapters: where `like`, a part of them, has some, as the base."""

    def placed(value, like):
        if isinstance(value, dict):
            return based(value, like or {})
        return {paths.BASE: value} if isinstance(like, dict) else value

    return {name: placed(value, like.get(name)) for name, value in params.items()}


def check(config: ModelConfig) -> None:
    """Raises UserError for a target that matches no weight, or only one that is both the embedding and the head."""
    if not config.lora.rank:
        return
    targets, weights = config.lora.targets, known(config)
    if not targets:
        raise UserError("model.lora.targets=() names no weight; ('attention.w*',) adapts those of attention.")
    for i, pattern in enumerate(targets if config.tied_head else ()):
        meant = any(paths.matches(pattern, path) for path in (TABLE, HEAD))
        if meant and not any(paths.matches(pattern, path) for path in weights):
            raise UserError(
                f"model.lora.targets[{i}]={pattern!r}: the head of this model is its embedding (tied_head), and "
                f"adapters know the two only where they are apart; optim.trains=({TABLE!r},) trains the whole table."
            )
    paths.check("model.lora.targets", targets, weights, "weight that adapters know")


def names(config: ModelConfig) -> list[str]:
    """The paths of the weights that have adapters. Makes no array."""
    return [path for path in known(config) if is_target(config.lora, path)]


def known(config: ModelConfig) -> list[str]:
    """The paths of the weights that can be adapted, of all kinds of layers, and of the embedding and the head unless
    they are one. Makes no array."""
    make = lambda kind: BLOCKS[config.block](jax.random.key(0), config, kind, MemoryConfig())
    with meshes.for_shapes():
        blocks = [jax.eval_shape(functools.partial(make, kind)) for kind in config.kinds]
    inside = [path for i, block in enumerate(blocks) for path, *_ in targets(block, f"blocks.{i}")]
    return inside + ([] if config.tied_head else [TABLE, HEAD])
