"""A check, before anything is allocated, that a run's least memory fits into what is free.

The count is a lower bound, so that nothing is refused that would have worked. Training counts parameters, moments and,
at the update, the gradients (in the narrower of their dtypes) or, in the backward, the inputs of all layers; reading
counts parameters and the hidden states of one row, generating parameters and the cache of a row; each where its
sharding and memory.offload put it. Not counted: work buffers, logits, what attention keeps, batches that are read
ahead, libraries. Swap is no memory.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from experiments.settings.environment import count
from longctx.config import Config, ModelConfig
from longctx.data.curriculum import Stage
from longctx.errors import UserError
from longctx.memory.sizes import free_memory, readable

TOKEN = 20  # bytes: its id, target, weight, position and segment
# kinds of meter.memory that exist at the same time, with the words of messages
UPDATE = {"parameters": "parameters", "optimiser": "moments", "gradients": "gradients"}
BACKWARD = {"parameters": "parameters", "optimiser": "moments", "layers' inputs": "the inputs of layers"}
READING = {"parameters": "parameters", "hidden states": "the hidden states of a row"}
GENERATING = {"parameters": "parameters", "cache": "the keys and values of a row"}
GROW_WITH_ROWS = "layers' inputs", "hidden states", "cache"
WIDTHS = {"float32": 4, "bfloat16": 2}
# fields of ModelConfig in which bytes are linear, and the mesh axis that must divide each; None: an even number
SIZES = {"layers": "", "d_model": "fsdp", "mlp_dim": "tensor", "vocab_size": "tensor", "head_dim": None}


class Pool(NamedTuple):
    """Memory that one or several devices share.

    Attributes:
      name: for messages.
      free: bytes.
      devices: the number of this process's devices that share it.
      holds: the values of meter.memory.Memory.on_host that it holds.
    """

    name: str
    free: int
    devices: int
    holds: tuple[bool, ...]


def check_rows(config: Config, stages: Iterable[Stage]) -> None:
    """Raises UserError where a host cannot hold its rows of one step. Needs neither jax nor the data."""
    free, hosts = free_memory(), count()
    for stage in stages:
        size, unit = TOKEN * stage.batch_tokens // hosts, stage.seq_len * config.mesh.data * config.mesh.fsdp
        if free is not None and size > free:
            field = f"stages[{stage.index}].batch_tokens" if config.stages[stage.index].batch_tokens else "batch_tokens"
            fits = free * hosts // TOKEN // unit * unit
            works = f"at most {field}={fits} fits" if fits else f"a shorter stages[{stage.index}].seq_len takes less"
            raise UserError(
                f"{field}={stage.batch_tokens}: the rows of a step take {readable(size)} of host "
                f"memory, and {readable(free)} are free; {works}."
            )


def check(config: Config, mesh, stages: tuple[Stage, ...] = (), lengths: tuple[int, ...] = (), cached: int = 0) -> None:
    """Raises UserError where the devices of a mesh, or this host, cannot hold the least that a config takes.

    stages: to train, if any; lengths: tokens of rows that are read without training; cached: tokens of a row that is
    generated.
    """
    stage, longest = max(stages, key=lambda stage: stage.batch_tokens, default=None), max(lengths, default=0)
    moments = [(kinds, stage.batch_tokens) for kinds in (UPDATE, BACKWARD) if stage]  # what exists at a time
    moments += [(GENERATING, cached)] if cached else [(READING, longest)] if longest or not stage else []
    for pool in _pools(mesh):
        for kinds, tokens in moments:
            size = functools.partial(_size, mesh, stage, longest, cached, pool)
            if (needed := size(config, kinds)) > pool.free:
                fits = _what_fits(config, kinds, tokens, size, pool.free)
                *most, last = kinds.values()
                raise UserError(
                    f"{', '.join(most)} and {last} take at least {readable(needed)} of {pool.name}, and "
                    f"{readable(pool.free)} are free; {fits}."
                )


def _pools(mesh) -> Iterator[Pool]:
    """The memories of this process's devices and of its host, as far as their size is known."""
    devices, host = mesh.local_devices, free_memory()
    on_cpu = devices[0].platform == "cpu"
    stats = [] if on_cpu else [device.memory_stats() or {} for device in devices]
    if stats and all("bytes_limit" in device for device in stats):
        free = min(device["bytes_limit"] - device.get("bytes_in_use", 0) for device in stats)
        yield Pool("a device's memory", free, 1, (False,))
    if host is not None:
        name = "this machine's memory" + (f" for {len(devices)} devices" if len(devices) > 1 else "")
        yield Pool(name, host, len(devices), (False, True) if on_cpu else (True,))


def _size(mesh, stage: Stage | None, longest: int, cached: int, pool: Pool, config: Config, kinds) -> int:
    """Bytes that a config's memory of these kinds takes of a pool."""
    from experiments.meter import memory
    from longctx import training

    model, state = config.model, training.abstract_state(config, mesh)
    shape = (stage.seq_len, stage.batch_size) if stage else (0, 0)
    row = longest / config.mesh.context_shards * model.d_model * WIDTHS[model.dtype]
    uses = [*memory.closed_form(config, state, *shape), memory.Memory("hidden states", row)]
    uses += [memory.of_cache(model, mesh, cached)] if "cache" in kinds else []
    uses = [use for use in uses if use.kind in kinds and use.on_host in pool.holds]
    narrow = min(1.0, WIDTHS[model.dtype] / WIDTHS[model.param_dtype])
    return int(pool.devices * sum(use.bytes * (narrow if use.kind == "gradients" else 1.0) for use in uses))


def _what_fits(config: Config, kinds, tokens: int, size: Callable, free: int) -> str:
    """Advice for a message: rows that would fit, or where the model alone is too large, a smaller size of it.

    The size is the one that exceeds the default model's by the largest factor.
    """
    if (fixed := size(config, set(kinds).difference(GROW_WITH_ROWS))) <= free and set(kinds) & set(GROW_WITH_ROWS):
        most = int(tokens * (free - fixed) / (size(config, kinds) - fixed))
        return f"at most rows of {most:,} tokens in all fit; more devices hold less each"
    usual = ModelConfig()
    for field in sorted(SIZES, key=lambda name: -getattr(config.model, name) / getattr(usual, name)):
        sized = lambda value, field=field: size(
            dataclasses.replace(config, model=dataclasses.replace(config.model, **{field: value})), kinds
        )
        unit = 2 if SIZES[field] is None else getattr(config.mesh, SIZES[field], 1)
        base, step = sized(unit), sized(2 * unit) - sized(unit)
        if base <= free and step > 0:
            fits = 1 + (free - base) // step
            while sized(fits * unit) > free:  # where an axis divides some sizes only, bytes are not linear
                fits = fits // 2
            return f"at most model.{field}={fits * unit} fits"
    return "more devices along mesh.fsdp, mesh.context or mesh.tensor store less each"
