"""The training state, a nested dict of arrays (donated, checkpointed, restored anywhere), and the one jitted step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from longctx import loss, meshes, optim, trained
from longctx.config import Config, RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.memory import host
from longctx.memory.checks import check_offload
from longctx.model import functional, lora, paths
from longctx.positions import augment
from longctx.streaming import checks as streaming
from longctx.streaming.step import CLIPS, Optimizer, others, squared, streamed, updated

BLOCKS = jax.tree_util.DictKey("blocks")
# On GPUs XLA's own rematerialization counts arrays in host memory as device memory, and computes again what it need
# not; and with one collective in flight at a time, values would wait for keys, before the compute that hides both. On
# TPUs gathers of weights hide behind matmuls only when asked to.
OPTIONS = {
    "gpu": {"xla_disable_hlo_passes": "rematerialization", "xla_gpu_experimental_parallel_collective_overlap_limit": 4},
    "tpu": {"xla_enable_async_all_gather": "true", "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true"},
}


def init_state(config: Config, mesh, params: dict | None = None) -> dict:
    """The state before the first step: parameters and optimiser moments, born in their shardings, and counters.

    `step` counts the batches seen; `grad_norm` is the gradient norm of the last good step.

    params: weights to start from; parameters that it lacks (such as CLEX's, or adapters) are drawn from config.seed.
    """
    with jax.set_mesh(mesh):
        shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
        of_params = shardings.pop("params")
        initial = lora.based(params or {}, of_params)
        given = dict(paths.leaves(initial))
        absent = paths.picked(of_params, lambda path: path not in given)
        drawn = jax.jit(lambda: paths.alike(_fresh(config), absent), out_shardings=absent)()
        placed = jax.device_put(initial, paths.alike(of_params, initial))
        params = paths.joined(placed, drawn)
        rest = jax.jit(lambda params: _moments_and_counters(config, params), out_shardings=shardings)(params)
        return rest | {"params": params}


def _fresh(config: Config) -> dict:
    return functional.init(config.model, config.attention, jax.random.key(config.seed))


def _moments_and_counters(config: Config, params: dict) -> dict:
    """The state without its parameters, before the first step."""
    zero, averages = jnp.zeros((), jnp.int32), {}
    if config.optim.ema:
        averages = {"ema": trained.averages(config, params)}
    return averages | {
        "moments": optim.start(config.optim, trained.part(config, params)),
        "step": zero,
        "skipped": zero,
        "skipped_in_a_row": zero,
        "grad_norm": jnp.zeros((), jnp.float32),
    }


def abstract_state(config: Config, mesh):
    """Shapes, dtypes and shardings of the state on `mesh`, with no array made: the target of a restore."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        params = jax.eval_shape(lambda: _fresh(config))
        shapes = jax.eval_shape(lambda params: _moments_and_counters(config, params), params) | {"params": params}

    def placed(path, x):
        spec = x.sharding.spec if x.sharding else meshes.REPLICATED
        memory = "pinned_host" if on_host(config, path[0].key, path, x) else "device"
        sharding = NamedSharding(mesh, spec, memory_kind=memory)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map_with_path(placed, shapes)


def on_host(config: Config, kind: str, path, x) -> bool:
    """Whether memory.offload keeps `x`, an array at (or like the one at) `path` of the state, in host memory.

    kind: a name in host.OF_WEIGHTS.
    """
    return kind in config.memory.offload and BLOCKS in path and host.may_leave(x)


def autodiff(graph, config: Config, rate, rope: RopeConfig, state: dict, batch: dict, length: int | None):
    """One AdamW step whose gradients come from jax.grad: (params, moments, losses, gradient norm, good).

    Every entry of BACKWARDS has these arguments and results. rate: the learning rate. length: see train_step. losses:
    "loss", the mean, and of a mixture whose batches have sources "by_source", as loss.by_source has it. good: whether
    the loss, the norm and the updated parameters are finite. Where the loss or the norm is not, parameters and moments
    stay as they were (streaming/step.py says which of them stay when layers are updated one by one).
    """

    def losses(part, batch=batch, total=None):
        params = paths.joined(state["params"], part)
        nll, weights = functional.nll(graph, params, batch, rope, length), batch["weights"]
        told_apart, of = "sources" in batch, (batch.get("sources"), batch.get("rows"))
        sums = {"by_source": loss.by_source(nll, weights, *of)} if told_apart else {}
        return loss.mean_over_tokens(nll, weights, total), sums

    decays = functional.decays(graph, state["params"])
    if config.memory.offload:
        step = functools.partial(_by_layers, losses, others(state["params"]))
        return updated(Optimizer(config, rate, decays), state, step)
    part, decays = trained.part(config, state["params"]), trained.part(config, decays)
    gradients = jax.value_and_grad(losses, has_aux=True)
    if (count := config.memory.grad_accumulation) > 1:
        (value, sums), grads = _accumulated(gradients, part, batch, count)
    else:
        (value, sums), grads = gradients(part)
    grads, norm = optim.clipped(grads, config.optim.clip_norm)
    good = jnp.isfinite(value) & jnp.isfinite(norm)
    part, moments, good = optim.updated(config.optim, rate, grads, state["moments"], part, good, decays)
    return paths.joined(state["params"], part), moments, {"loss": value, **sums}, norm, good


def _accumulated(gradients, part, batch: dict, count: int):
    """What gradients(part) is of the whole batch, of `count` parts of each shard's rows one after another.

    gradients: (parameters, rows, the sum of all weights) -> ((mean, by source), gradients), which add up.
    """
    total = batch["weights"].sum()

    def parts(x):
        cut = P(meshes.BATCH, None, *jax.typeof(x).sharding.spec[1:])
        return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:], out_sharding=cut), 1, 0)

    def add(sums, rows):
        return jax.tree.map(jnp.add, sums, gradients(part, rows, total)), None

    rows = jax.tree.map(parts, batch)
    by_source = {"by_source": jnp.zeros((2, batch["sources"].shape[-1]))} if "sources" in batch else {}
    none = (jnp.zeros(()), by_source), jax.tree.map(jnp.zeros_like, part)
    return jax.lax.scan(add, none, rows)[0]


def _by_layers(losses, outside, optimizer, blocks, moments):
    """Gradients by autodiff into stacks, in host memory if offloaded, then AdamW layer by layer.

    losses: parameters -> (the mean, by source). Returns what the entries of streaming.step.CLIPS do.
    """

    def loss_with(outside, places):
        weights = jax.tree.map(host.Weight, host.arrays(blocks), host.arrays(places))
        return losses(outside | {"blocks": weights})

    places = host.zeros_like(blocks, "grads" in optimizer.config.memory.offload)
    (value, sums), (outside, grads) = jax.value_and_grad(loss_with, (0, 1), has_aux=True)(outside, places)
    squares = squared(outside)
    for stacks in grads.values():
        add = lambda i, total, stacks=stacks: total + squared(host.read(stacks, i))
        squares = jax.lax.fori_loop(0, host.count(stacks), add, squares)
    norm = jnp.sqrt(squares)
    factor, good = optimizer.factor(norm), jnp.isfinite(value) & jnp.isfinite(norm)
    return *optimizer.layers(blocks, (moments, good), grads, factor), outside, {"loss": value, **sums}, norm, factor


BACKWARDS = {"autodiff": autodiff, "streamed": streamed}


# settings of memory that only one of BACKWARDS reads
READ_BY = {
    "loss_tiles": "autodiff",
    "grad_accumulation": "autodiff",
    "head_groups": "autodiff",
    "chunk_tokens": "streamed",
    "residual_every": "streamed",
    "keep_attention": "streamed",
    "clip_mode": "streamed",
}


def check(config: Config) -> None:
    """Raises UserError for a setting of memory that is unknown, not read by its backward, or cannot work."""
    memory = config.memory
    names = [("memory.backward", memory.backward, BACKWARDS), ("memory.clip_mode", memory.clip_mode, CLIPS)]
    names += [(f"memory.offload[{i}]", name, host.NAMES) for i, name in enumerate(memory.offload)]
    for field, name, known in names:
        if name not in known:
            raise unknown_name(field, name, known)
    for field in dataclasses.fields(memory):
        value, reader = getattr(memory, field.name), READ_BY.get(field.name, memory.backward)
        if value != field.default and memory.backward != reader:
            raise UserError(
                f"memory.{field.name}={value!r} is for memory.backward={reader!r}, and it is {memory.backward!r}."
            )
    if memory.backward == "streamed":
        streaming.check(config)
    else:
        check_offload(config)
    trained.check(config)


def train_step(graph, config: Config, rate, rope: RopeConfig, state: dict, batch: dict, length: int | None = None):
    """One step of AdamW on the weighted mean loss of a batch, to be traced under a mesh; `compile_step` is of a run.

        step = jax.jit(lc.train_step, static_argnums=(0, 1, 2, 3), donate_argnums=4)
        state, metrics = step(graph, config, rate, rope, state, batch)          # under jax.set_mesh(mesh)

    Where the loss, the gradient norm or an updated parameter is not finite, the step is counted in `skipped` and the
    state stays finite (see `autodiff` and optim.updated); the batch counts as seen.

    Args:
      graph: the static part of the model, of model.functional.graph(config.model, config.attention, config.memory).
      config: of the run; its settings optim and memory are read.
      rate: step -> learning rate, such as optim.learning_rate gives.
      rope: how the positions of this batch are rotated, such as config.model.rope.
      state: of init_state.
      batch: tokens, targets, positions and segments, int32 [B, T], and weights, float32 [B, T]; see meshes.put_batch.
        Perhaps sources, bool [B, sources]: of which sources a row is; see data.joining where rows are joined.
      length: of a row in tokens, as RoPE's scalings take it; default T, which is more where rows are joined.

    Returns:
      (state, metrics): metrics are float32 or int32 scalars: loss (nats per token), grad_norm, learning_rate, weight
      (sum of token weights), skipped, skipped_in_a_row. With sources, by_source is float32 [2, sources]: see
      loss.by_source.
    """
    lr = rate(state["step"])
    params, moments, losses, norm, good = BACKWARDS[config.memory.backward](
        graph, config, lr, rope, state, batch, length
    )
    bad = 1 - good.astype(jnp.int32)
    means = {"ema": trained.averaged(config, state["ema"], params, good)} if config.optim.ema else {}
    state = means | {
        "params": params,
        "moments": moments,
        "step": state["step"] + 1,
        "skipped": state["skipped"] + bad,
        "skipped_in_a_row": (state["skipped_in_a_row"] + bad) * bad,
        "grad_norm": jnp.where(good, norm, state["grad_norm"]),
    }
    metrics = {
        **losses,
        "grad_norm": norm,
        "learning_rate": lr,
        "filled": (batch["segments"] > 0).sum(),
        "skipped": state["skipped"],
        "skipped_in_a_row": state["skipped_in_a_row"],
    }
    return state, metrics


def compile_step(config: Config, rate, stage, mesh, sources: int = 0):
    """The compiled step for the shapes of a data.curriculum.Stage: (state, batch) -> (state, metrics).

    sources: how many the batches tell apart; 0 if they do not.
    """
    return lowered(trace_step(config, rate, stage, mesh, sources), mesh).compile()


def lower_step(config: Config, rate, stage, mesh, platform: str | None = None) -> jax.stages.Lowered:
    """The step of a data.curriculum.Stage, lowered and not yet compiled.

    platform: "tpu" or "cuda" for a mesh of jax's topology descriptions, whose devices this machine does not have.
    """
    return lowered(trace_step(config, rate, stage, mesh), mesh, platform)


def lowered(traced: jax.stages.Traced, mesh, platform: str | None = None) -> jax.stages.Lowered:
    """A traced step lowered for `platform`, by default the one of the mesh's devices."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return traced.lower(lowering_platforms=platform and (platform,))


def trace_step(config: Config, rate, stage, mesh, sources: int = 0) -> jax.stages.Traced:
    """The traced step of a data.curriculum.Stage: (state, batch) -> (state, metrics), `state` donated.

    sources: see compile_step.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        graph = functional.graph(config.model, config.attention, config.memory)

        def step(state, batch):
            key = jax.random.fold_in(jax.random.key(config.seed), state["step"])
            batch = augment.augmented(batch, key, stage.augment, stage.augment_length)
            return train_step(graph, config, rate, stage.rope, state, batch, stage.seq_len)

        args = abstract_state(config, mesh), abstract_batch(stage, mesh, sources)
        options = OPTIONS.get(mesh.devices.flat[0].platform)
        return jax.jit(step, donate_argnums=0, compiler_options=options).trace(*args)


def abstract_batch(stage, mesh, sources: int = 0) -> dict:
    """Shapes, dtypes and shardings of a batch [B, T] of a data.curriculum.Stage. sources: see compile_step."""
    shape, sharding = stage.shape, NamedSharding(mesh, meshes.TOKENS)
    names = {
        "tokens": jnp.int32,
        "targets": jnp.int32,
        "weights": jnp.float32,
        "positions": jnp.int32,
        "segments": jnp.int32,
    }
    batch = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in names.items()}
    if sources:
        of_rows = shape[0], *([stage.joined] if stage.joined > 1 else []), sources
        batch["sources"] = jax.ShapeDtypeStruct(of_rows, jnp.bool_, sharding=NamedSharding(mesh, P(meshes.BATCH)))
    if sources and stage.joined > 1:
        batch["rows"] = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
    return batch
