"""Where a step's bytes are: what has a closed form, and the rest of what the compiler counts."""

import dataclasses
import math

import jax

from longctx.config import Config
from longctx.memory import remat
from longctx.train_step import on_host


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of each device, of one kind; on_host: of its share of the host's memory."""

    kind: str
    bytes: float
    on_host: bool = False


def known(config: Config, state: dict, length: int, rows: int) -> list[Memory]:
    """Parameters, optimiser, gradients, and what a step keeps of all tokens; state: abstract, on the mesh."""
    found = _state(config, "parameters", "params", state["params"])
    found += _state(config, "optimiser", "moments", state["moments"])
    if config.memory.backward == "autodiff" or _clips_exactly(config):
        found += _state(config, "gradients", "grads", state["params"])
    tokens = length * rows / (config.mesh.devices / config.mesh.tensor)
    keep = _streamed if config.memory.backward == "streamed" else _kept
    return [one for one in found + keep(config, tokens) if one.bytes]


def with_rest(found: list[Memory], used) -> list[Memory]:
    """The same with what else the compiler counts. used: its memory_analysis()."""
    device = used.argument_size_in_bytes + used.temp_size_in_bytes
    there = used.host_argument_size_in_bytes + used.host_temp_size_in_bytes
    rest = lambda whole, on_host: max(whole - total(found, on_host), 0.0)
    return [*found, Memory("work buffers", rest(device, False)), Memory("staging", rest(there, True), True)]


def total(found: list[Memory], on_host: bool) -> float:
    return sum(one.bytes for one in found if one.on_host == on_host)


def _clips_exactly(config):
    return config.memory.clip_mode == "exact" and config.optim.clip_norm > 0


def _state(config, kind: str, name: str, tree):
    """On both memories; name: as memory.offload has it, of arrays like those of the tree."""
    sizes = [0, 0]
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        there = on_host(config, name, path, x)
        sizes[there] += math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    return [Memory(kind, sizes[False]), Memory(kind, sizes[True], True)]


def _kept(config, tokens):
    """What autodiff keeps of so many tokens of each device, as far as model.remat names it."""
    model, policy = config.model, remat.parse(config.model.remat)
    if policy.policy is None:
        return []
    each = jax.numpy.dtype(model.dtype).itemsize * tokens * model.layers
    found = [Memory("layers' inputs", each * model.d_model, "layer_input" in policy.moved)]
    if policy.keeps("attention_out"):
        found += [
            Memory(
                "attention's results",
                each * model.heads / config.mesh.tensor * model.head_dim,
                "attention_out" in policy.moved,
            )
        ]
    return found


def _streamed(config, tokens):
    model, memory, shards = config.model, config.memory, config.mesh.context_shards
    width = jax.numpy.dtype(model.dtype).itemsize
    slots = -(-model.layers // memory.residual_every) + memory.residual_every
    # by Ulysses each device has some heads of all tokens, and at least one
    exchanges = config.attention.strategy in ("ulysses", "usp") and shards > 1
    parts = config.mesh.context if config.attention.strategy == "usp" else shards
    heads = max(model.kv_heads / config.mesh.tensor, parts) if exchanges else model.kv_heads / config.mesh.tensor
    found = [
        ("residual", "layers' inputs", slots * width * model.d_model),
        ("dy", "gradient of the stream", width * model.d_model),
        ("kv", "keys and values", 2 * heads * model.head_dim * (width + 4)),
    ]  # and their sums, float32
    if memory.keep_attention:
        results = model.layers if memory.residual_every == 1 else memory.residual_every - 1
        found += [
            (
                "attention",
                "attention's results",
                results * model.heads / config.mesh.tensor * (model.head_dim * width + 4),
            )
        ]
    return [Memory(kind, per_token * tokens, name in memory.offload) for name, kind, per_token in found]
