"""Low-rank adapters (LoraConfig): which weights of a layer have them, and what they make of the weights when merged."""

import functools
import string
import zlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from longctx import meshes
from longctx.config import LoraConfig, MemoryConfig, ModelConfig
from longctx.errors import UserError
from longctx.model import paths
from longctx.model.block import BLOCKS
from longctx.model.linear import Adapted


def adapted(key, block: nnx.Module, kind: int, lora: LoraConfig) -> nnx.Module:
    """The block of a kind of layers, with Adapted in place of the weights that lora.targets name.

    key: of the layer; the weights of the block itself are drawn as without adapters.
    """
    for path, owner, name in targets(block, kind):
        if is_target(lora, path):
            own = jax.random.fold_in(key, zlib.crc32(path.encode()) >> 1)
            setattr(owner, name, Adapted(own, getattr(owner, name), lora))
    return block


def is_target(lora: LoraConfig, path: str) -> bool:
    """Whether the weight at a path has an adapter."""
    return lora.rank > 0 and any(paths.matches(pattern, path) for pattern in lora.targets)


def targets(block: nnx.Module, kind: int) -> list[tuple[str, nnx.Module, str]]:
    """(path, the module that has it, its name there) of each weight of a block that can be adapted."""

    def below(module: nnx.Module, at: str) -> Iterator[tuple[str, nnx.Module, str]]:
        for name, value in vars(module).items():
            if isinstance(value, nnx.Module):
                yield from below(value, f"{at}.{name}")
            elif isinstance(value, nnx.Param) and value.info.inputs:
                yield f"{at}.{name}", module, name

    return list(below(block, f"blocks.{kind}"))


def merged(params: dict, config: ModelConfig) -> dict:
    """The parameters of the model without adapters: base + alpha / rank * a b, computed in float32, in base's dtype.

    Under `jax.set_mesh`; as they are where config.lora is off.
    """
    if paths.is_adapted(params):
        return _summed(*(params[name] for name in (paths.BASE, *paths.ADAPTERS)), config.lora.alpha / config.lora.rank)
    return {name: merged(value, config) if isinstance(value, dict) else value for name, value in params.items()}


@jax.jit
def _summed(base, a, b, scale):
    """base + scale a b of stacked layers: base [L, inputs, outputs], a [L, inputs, R], b [L, R, outputs], where inputs
    and outputs are any number of dimensions."""
    letters = string.ascii_lowercase[: base.ndim - 1]
    ins, outs = letters[: a.ndim - 2], letters[a.ndim - 2 :]
    low = jnp.einsum(
        f"L{ins}R,LR{outs}->L{ins}{outs}", a, b, precision="highest", out_sharding=jax.typeof(base).sharding.spec
    )
    return (base.astype(jnp.float32) + scale * low).astype(base.dtype)


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
    """Raises UserError for a target that matches no weight of a layer."""
    if not config.lora.rank:
        return
    if not config.lora.targets:
        raise UserError("model.lora.targets=() names no weight; ('attention.w*',) adapts those of attention.")
    paths.check("model.lora.targets", config.lora.targets, known(config), "weight that adapters know")


def names(config: ModelConfig) -> list[str]:
    """The paths of the weights that have adapters. Makes no array."""
    return [path for path in known(config) if is_target(config.lora, path)]


def known(config: ModelConfig) -> list[str]:
    """The paths of the weights that can be adapted, of all kinds of layers. Makes no array."""
    make = lambda kind: BLOCKS[config.block](jax.random.key(0), config, kind, MemoryConfig())
    with meshes.for_shapes():
        blocks = [jax.eval_shape(functools.partial(make, kind)) for kind in config.kinds]
    return [path for i, block in enumerate(blocks) for path, *_ in targets(block, i)]
