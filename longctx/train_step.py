"""The training state, a nested dict of arrays (donated, checkpointed, restored anywhere), and the one jitted step."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from longctx import loss, meshes, optim
from longctx.config import Config, RopeConfig
from longctx.memory import host
from longctx.model import functional
from longctx.positions import augment
from longctx.streaming.step import Optimizer, others, squared, streamed, updated

BLOCKS = jax.tree_util.DictKey("blocks")
# On GPUs XLA's own rematerialization takes what is in the hosts' memory for the device's, and computes again what it
# need not; and of keys and values that travel at the same time it would let one wait for the other, in front of what
# hides them. On TPUs gathers of weights hide behind matmuls only when asked to.
OPTIONS = {
    "gpu": {"xla_disable_hlo_passes": "rematerialization", "xla_gpu_experimental_parallel_collective_overlap_limit": 4},
    "tpu": {"xla_enable_async_all_gather": "true", "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true"},
}


def init_state(config: Config, mesh, params: dict | None = None) -> dict:
    """Fresh state: params and optimiser moments, born in their sharding, and counters.

    `step` counts batches seen, `grad_norm` is that of the last good step.

    params: those to start from; what a model has beside them (such as CLEX) is fresh.
    """
    with jax.set_mesh(mesh):
        places, given = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh)), params or {}
        absent = {name: place for name, place in places["params"].items() if name not in given}
        missing = jax.jit(lambda: {name: _fresh(config)[name] for name in absent}, out_shardings=absent)()
        params = jax.device_put(given, {name: places["params"][name] for name in given}) | missing
        beside = {name: place for name, place in places.items() if name != "params"}
        return jax.jit(lambda params: _beside(config, params), out_shardings=beside)(params) | {"params": params}


def _fresh(config: Config) -> dict:
    return functional.init(config.model, config.attention, jax.random.key(config.seed))


def _beside(config: Config, params: dict) -> dict:
    """All of the state but the parameters."""
    zero = jnp.zeros((), jnp.int32)
    return {
        "moments": optim.start(config.optim, params),
        "step": zero,
        "skipped": zero,
        "skipped_in_a_row": zero,
        "grad_norm": jnp.zeros((), jnp.float32),
    }


def abstract_state(config: Config, mesh):
    """Shapes, dtypes and shardings of the state on `mesh`, with no array made: what a restore needs."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        params = jax.eval_shape(lambda: _fresh(config))
        shapes = jax.eval_shape(lambda params: _beside(config, params), params) | {"params": params}

    def placed(path, x):
        spec = x.sharding.spec if x.sharding else meshes.REPLICATED
        there = on_host(config, path[0].key, path, x)
        sharding = NamedSharding(mesh, spec, memory_kind="pinned_host" if there else "device")
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map_with_path(placed, shapes)


def on_host(config: Config, kind: str, path, x) -> bool:
    """Whether an array of that path in the state, or like it, is in the hosts' memory; kind: of host.OF_WEIGHTS."""
    return kind in config.memory.offload and BLOCKS in path and host.may_leave(x)


def autodiff(graph, config: Config, rate, rope: RopeConfig, state: dict, batch: dict):
    """All BACKWARDS: (params, moments, mean loss, gradient norm, good) after one step at a learning rate.

    good: whether the loss, the norm and what the update gives are finite. Where the loss or the norm is not, parameters
    and moments are as they were (of a step that updates layer by layer, streaming/step.py says which).
    """

    def mean_loss(params):
        return loss.mean_over_tokens(functional.nll(graph, params, batch, rope), batch["weights"])

    decays = functional.decays(graph, state["params"])
    if config.memory.offload:
        step = functools.partial(_by_layers, mean_loss, others(state["params"]))
        return updated(Optimizer(config, rate, decays), state, step)
    value, grads = jax.value_and_grad(mean_loss)(state["params"])
    grads, norm = optim.clipped(grads, config.optim.clip_norm)
    good = jnp.isfinite(value) & jnp.isfinite(norm)
    params, moments, good = optim.updated(config.optim, rate, grads, state["moments"], state["params"], good, decays)
    return params, moments, value, norm, good


def _by_layers(mean_loss, outside, optimizer, blocks, moments):
    """As streaming.step.CLIPS, with all gradients there."""

    def of_changes(outside, places):
        weights = jax.tree.map(host.Weight, host.arrays(blocks), host.arrays(places))
        return mean_loss(outside | {"blocks": weights})

    places = host.zeros_like(blocks, "grads" in optimizer.config.memory.offload)
    value, (outside, grads) = jax.value_and_grad(of_changes, (0, 1))(outside, places)
    squares = squared(outside)
    for stacks in grads.values():
        add = lambda i, total, stacks=stacks: total + squared(host.read(stacks, i))
        squares = jax.lax.fori_loop(0, host.count(stacks), add, squares)
    norm = jnp.sqrt(squares)
    factor, good = optimizer.factor(norm), jnp.isfinite(value) & jnp.isfinite(norm)
    return *optimizer.layers(blocks, (moments, good), grads, factor), outside, value, norm, factor


BACKWARDS = {"autodiff": autodiff, "streamed": streamed}


def train_step(graph, config: Config, rate, rope: RopeConfig, state: dict, batch: dict):
    """One step of AdamW on the weighted mean loss of a batch; rate: step -> learning rate.

    Where the loss, the gradient norm or what the update gives is not finite, the step is counted in `skipped`, and the
    state stays finite (see BACKWARDS and optim.updated); the batch is spent all the same.

    Returns:
      (state, metrics): metrics are float32 or int32 scalars: loss (nats per token), grad_norm, learning_rate, weight
      (sum of token weights), skipped, skipped_in_a_row.
    """
    lr = rate(state["step"])
    params, moments, value, norm, good = BACKWARDS[config.memory.backward](graph, config, lr, rope, state, batch)
    bad = 1 - good.astype(jnp.int32)
    state = {
        "params": params,
        "moments": moments,
        "step": state["step"] + 1,
        "skipped": state["skipped"] + bad,
        "skipped_in_a_row": (state["skipped_in_a_row"] + bad) * bad,
        "grad_norm": jnp.where(good, norm, state["grad_norm"]),
    }
    metrics = {
        "loss": value,
        "grad_norm": norm,
        "learning_rate": lr,
        "weight": batch["weights"].sum(),
        "skipped": state["skipped"],
        "skipped_in_a_row": state["skipped_in_a_row"],
    }
    return state, metrics


def compile_step(config: Config, rate, stage, mesh):
    """The step of a data.curriculum.Stage, compiled ahead for its shapes: (state, batch) -> (state, metrics)."""
    return lower_step(config, rate, stage, mesh).compile()


def lower_step(config: Config, rate, stage, mesh, platform: str | None = None) -> jax.stages.Lowered:
    """The same before the compiler has seen it.

    platform: "tpu" or "cuda" where the devices of the mesh are not here but described by jax's topologies.
    """
    return lowered(trace_step(config, rate, stage, mesh), mesh, platform)


def lowered(traced: jax.stages.Traced, mesh, platform: str | None = None) -> jax.stages.Lowered:
    """What `trace_step` gives for a mesh, for the compiler of a platform."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return traced.lower(lowering_platforms=platform and (platform,))


def trace_step(config: Config, rate, stage, mesh) -> jax.stages.Traced:
    """The step before it is lowered."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        graph = functional.graph(config.model, config.attention, config.memory)

        def step(state, batch):
            key = jax.random.fold_in(jax.random.key(config.seed), state["step"])
            batch = augment.augmented(batch, key, stage.augment, stage.augment_length)
            return train_step(graph, config, rate, stage.rope, state, batch)

        args = abstract_state(config, mesh), abstract_batch(stage, mesh)
        options = OPTIONS.get(mesh.devices.flat[0].platform)
        return jax.jit(step, donate_argnums=0, compiler_options=options).trace(*args)


def abstract_batch(stage, mesh) -> dict:
    shape, sharding = (stage.batch_size, stage.seq_len), NamedSharding(mesh, meshes.TOKENS)
    names = {
        "tokens": jnp.int32,
        "targets": jnp.int32,
        "weights": jnp.float32,
        "positions": jnp.int32,
        "segments": jnp.int32,
    }
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in names.items()}
