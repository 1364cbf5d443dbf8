"""Memory by kind: of a training step what has a closed form and the rest that the compiler counts; of a KV cache."""

import dataclasses
import math

import jax

from longctx import trained
from longctx.config import Config, ModelConfig
from longctx.generation import cache
from longctx.memory import remat
from longctx.training import on_host


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one kind per device, in its own memory or, with on_host, in its share of host memory."""

    kind: str
    bytes: float
    on_host: bool = False


def closed_form(config: Config, state: dict, length: int, rows: int) -> list[Memory]:
    """The memory of parameters, optimiser, gradients, and activations kept for the backward; state: abstract."""
    uses = _state(config, "parameters", "params", state["params"])
    uses += _state(config, "optimiser", "moments", [state["moments"], state.get("ema", {})])
    if config.memory.backward == "autodiff" or _clips_exactly(config):
        uses += _state(config, "gradients", "grads", trained.part(config, state["params"]))
    tokens = length * rows / (config.mesh.devices / config.mesh.tensor)
    keep = _streamed if config.memory.backward == "streamed" else _kept
    return [use for use in uses + keep(config, tokens) if use.bytes]


def of_cache(model: ModelConfig, mesh, longest: int) -> Memory:
    """The memory of the keys and values of a row of up to `longest` tokens on each data-parallel rank."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    with jax.set_mesh(mesh):
        kept = jax.eval_shape(lambda: cache.empty(model, rows, longest))
    return Memory("cache", sum(map(_bytes, jax.tree.leaves(kept))))


def with_rest(uses: list[Memory], analysis) -> list[Memory]:
    """`uses` and the rest of what the compiler counts. analysis: the program's memory_analysis()."""
    device = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    host = analysis.host_argument_size_in_bytes + analysis.host_temp_size_in_bytes
    rest = lambda whole, on_host: max(whole - total(uses, on_host), 0.0)
    return [*uses, Memory("work buffers", rest(device, False)), Memory("staging", rest(host, True), True)]


def total(uses: list[Memory], on_host: bool) -> float:
    """Bytes per device of all kinds, in host memory or in the device's own."""
    return sum(use.bytes for use in uses if use.on_host == on_host)


def _clips_exactly(config):
    return config.memory.clip_mode == "exact" and config.optim.clip_norm > 0


def _state(config, kind: str, name: str, tree):
    """The memory of arrays like those of `tree`, in device and in host memory; name: as in memory.offload."""
    sizes = [0, 0]
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        sizes[on_host(config, name, path, x)] += _bytes(x)
    return [Memory(kind, sizes[False]), Memory(kind, sizes[True], True)]


def _bytes(x) -> int:
    """The bytes of an array on each device."""
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _kept(config, tokens):
    """The memory of what autodiff keeps, as far as model.remat names it; tokens: of each device."""
    model, policy = config.model, remat.parse(config.model.remat)
    if policy.policy is None:
        return []
    each = jax.numpy.dtype(model.dtype).itemsize * tokens * model.layers
    uses = [Memory("layers' inputs", each * model.d_model, "layer_input" in policy.moved)]
    if policy.keeps("attention_out"):
        size = each * model.heads / config.mesh.tensor * model.head_dim
        uses += [Memory("attention's results", size, "attention_out" in policy.moved)]
    return uses


def _streamed(config, tokens):
    """The memory of what the streamed backward keeps; tokens: of each device."""
    model, memory, shards = config.model, config.memory, config.mesh.context_shards
    width = jax.numpy.dtype(model.dtype).itemsize
    slots = -(-model.layers // memory.residual_every) + memory.residual_every
    # with Ulysses each device has some heads of all tokens, and at least one
    exchanges = config.attention.strategy in ("ulysses", "usp") and shards > 1
    parts = config.mesh.context if config.attention.strategy == "usp" else shards
    heads = max(model.kv_heads / config.mesh.tensor, parts) if exchanges else model.kv_heads / config.mesh.tensor
    kept = [
        ("residual", "layers' inputs", slots * width * model.d_model),
        ("dy", "gradient of the stream", width * model.d_model),
        ("kv", "keys and values", 2 * heads * model.head_dim * (width + 4)),  # and their gradients' sums, float32
    ]
    if memory.keep_attention:
        results = model.layers if memory.residual_every == 1 else memory.residual_every - 1
        per_token = results * model.heads / config.mesh.tensor * (model.head_dim * width + 4)
        kept += [("attention", "attention's results", per_token)]
    return [Memory(kind, per_token * tokens, name in memory.offload) for name, kind, per_token in kept]
