"""The part of the parameters that a run trains (optim.trains, model.lora), and its running average (optim.ema)."""

import dataclasses

import jax
import jax.numpy as jnp

from longctx import meshes
from longctx.config import AttentionConfig, Config, LoraConfig, ModelConfig
from longctx.errors import UserError
from longctx.model import functional, paths


def is_trained(config: Config, path: str) -> bool:
    """Whether a run trains the parameter at a path, see model.paths."""
    if config.model.lora.rank and path.rpartition(".")[2] in paths.ADAPTERS:
        return True
    patterns = config.optim.trains or (() if config.model.lora.rank else ("*",))
    return any(paths.matches(pattern, path) for pattern in patterns)


def part(config: Config, params: dict) -> dict:
    """The trained part of a tree like the parameters, all of it by default."""
    return paths.picked(params, lambda path: is_trained(config, path))


def part_of_layer(config: Config, weights: dict, kind: int) -> dict:
    """The trained part of a tree like the weights of a layer of that kind."""
    return paths.picked(weights, lambda path: is_trained(config, path), f"blocks.{kind}")


def is_whole(config: Config) -> bool:
    """Whether a run trains every parameter, whatever the model is."""
    return not config.optim.trains and not config.model.lora.rank


def averages(config: Config, params: dict) -> dict:
    """The running averages of the trained part before the first step, float32."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), part(config, params))


def averaged(config: Config, before: dict, params: dict, good) -> dict:
    """The running averages after a step that gave `params`; as they were where `good` is false."""
    keep = config.optim.ema
    step = lambda mean, x: jnp.where(good, keep * mean + (1 - keep) * x.astype(jnp.float32), mean)
    return jax.tree.map(step, before, part(config, params))


def measured(state: dict) -> dict:
    """The parameters of a state that evaluations and exports take: with the averages, where the run keeps any."""
    params, means = state["params"], state.get("ema", {})
    cast = jax.tree.map(lambda mean, x: mean.astype(x.dtype), means, paths.alike(params, means))
    return paths.joined(params, cast)


def check(config: Config) -> None:
    """Raises UserError for a pattern that names no parameter, and for a way of training that needs all of them."""
    if config.model.lora.adapter and not config.init_from:
        raise UserError(
            f"model.lora.adapter={config.model.lora.adapter!r} belongs to a model of Hugging Face; init_from names it."
        )
    if config.optim.trains:
        paths.check("optim.trains", config.optim.trains, known_paths(config.model), "parameter")
    memory, why = config.memory, "model.lora.rank" if config.model.lora.rank else "optim.trains"
    if not is_whole(config) and memory.backward == "autodiff" and memory.offload:
        raise UserError(
            f"memory.offload={memory.offload} with memory.backward='autodiff' trains all parameters, and {why} leaves "
            "some as they are; memory.backward='streamed' works, or model.remat='offload_layer' in place of it."
        )
    if config.optim.ema and (kept := {"params", "moments"}.intersection(memory.offload)):
        raise UserError(
            f"memory.offload={memory.offload} keeps {min(kept)} on the host, and optim.ema={config.optim.ema} asks for "
            "averages on the device; leave one of the two out."
        )


def known_paths(model: ModelConfig) -> list[str]:
    """The path of every parameter of a model without adapters. Makes no array."""
    plain = dataclasses.replace(model, lora=LoraConfig())
    with meshes.for_shapes():
        shapes = jax.eval_shape(lambda: functional.init(plain, AttentionConfig(), jax.random.key(0)))
    return [path for path, _ in paths.leaves(shapes)]
