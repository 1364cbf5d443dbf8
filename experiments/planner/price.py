"""What a run takes at least, in bytes, against the memory there is: said before anything is allocated.

A lower bound, so that nothing is refused that would have worked. Counted of training: parameters and moments, and
beside them at the update the gradients (in the narrower of their dtypes), on the way back the inputs of all layers; of
reading: parameters and the hidden states of one row; each where its sharding and memory.offload put it. Not counted:
work buffers, logits, what attention keeps, batches that are read ahead, libraries. Swap is no memory.
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
# kinds of planner.memory that are there at the same time, and how people call them
UPDATE = {"parameters": "parameters", "optimiser": "moments", "gradients": "gradients"}
BACKWARD = {"parameters": "parameters", "optimiser": "moments", "layers' inputs": "the inputs of layers"}
READING = {"parameters": "parameters", "hidden states": "the hidden states of a row"}
GROW_WITH_ROWS = "layers' inputs", "hidden states"
WIDTHS = {"float32": 4, "bfloat16": 2}
# of the model, in which bytes are linear, and the axis of the mesh that divides each; None: it is even
SIZES = {"layers": "", "d_model": "fsdp", "mlp_dim": "tensor", "vocab_size": "tensor", "head_dim": None}


class Room(NamedTuple):
    """Memory that devices share. holds: of planner.memory.Memory.on_host; devices: of this process, in it."""

    name: str
    free: int
    devices: int
    holds: tuple[bool, ...]


def check_rows(config: Config, stages: Iterable[Stage]) -> None:
    """Raises UserError where a host cannot hold the rows of one step that it feeds. Needs neither jax nor the data."""
    free, hosts = free_memory(), count()
    for stage in stages:
        size, unit = TOKEN * stage.batch_tokens // hosts, stage.seq_len * config.mesh.data * config.mesh.fsdp
        if free is not None and size > free:
            field = f"stages[{stage.index}].batch_tokens" if config.stages[stage.index].batch_tokens else "batch_tokens"
            fits = free * hosts // TOKEN // unit * unit
            works = f"at most {field}={fits} fits" if fits else f"a shorter stages[{stage.index}].seq_len takes less"
            raise UserError(
                f"{field}={stage.batch_tokens}: the rows of a step take {readable(size)} of a host's "
                f"memory, and {readable(free)} are free; {works}."
            )


def check(config: Config, mesh, stages: tuple[Stage, ...] = (), lengths: tuple[int, ...] = ()) -> None:
    """Raises UserError where the devices of a mesh, or this host, cannot hold what a config takes at least.

    stages: to train, if any; lengths: tokens of rows that are read without training.
    """
    stage, longest = max(stages, key=lambda one: one.batch_tokens, default=None), max(lengths, default=0)
    asked = [(kinds, stage.batch_tokens) for kinds in (UPDATE, BACKWARD) if stage]
    asked += [(READING, longest)] if longest or not stage else []
    for room in _rooms(mesh):
        for kinds, tokens in asked:
            size = functools.partial(_size, mesh, stage, longest, room)
            if (whole := size(config, kinds)) > room.free:
                fits = _what_fits(config, kinds, tokens, size, room.free)
                *most, last = kinds.values()
                raise UserError(
                    f"{', '.join(most)} and {last} take at least {readable(whole)} of {room.name}, and "
                    f"{readable(room.free)} are free; {fits}."
                )


def _rooms(mesh) -> Iterator[Room]:
    mine, host = mesh.local_devices, free_memory()
    on_cpu = mine[0].platform == "cpu"
    found = [] if on_cpu else [device.memory_stats() or {} for device in mine]
    if found and all("bytes_limit" in one for one in found):
        free = min(one["bytes_limit"] - one.get("bytes_in_use", 0) for one in found)
        yield Room("a device's memory", free, 1, (False,))
    if host is not None:
        name = "this machine's memory" + (f" for {len(mine)} devices" if len(mine) > 1 else "")
        yield Room(name, host, len(mine), (False, True) if on_cpu else (True,))


def _size(mesh, stage: Stage | None, longest: int, room: Room, config: Config, kinds) -> int:
    """Bytes in a room of these kinds."""
    from experiments.meter import memory
    from longctx import train_step

    model, state = config.model, train_step.abstract_state(config, mesh)
    shape = (stage.seq_len, stage.batch_size) if stage else (0, 0)
    row = longest / config.mesh.context_shards * model.d_model * WIDTHS[model.dtype]
    found = [*memory.known(config, state, *shape), memory.Memory("hidden states", row)]
    narrow = min(1.0, WIDTHS[model.dtype] / WIDTHS[model.param_dtype])
    share = lambda kind: narrow if kind == "gradients" else 1.0
    return int(
        room.devices
        * sum(one.bytes * share(one.kind) for one in found if one.kind in kinds and one.on_host in room.holds)
    )


def _what_fits(config: Config, kinds, tokens: int, size: Callable, free: int) -> str:
    """Rows that would do; or where the model alone is too large, the size of it that is farthest from usual ones."""
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
            while sized(fits * unit) > free:  # but for shares that divide some sizes only
                fits = fits // 2
            return f"at most model.{field}={fits * unit} fits"
    return "more devices along mesh.fsdp, mesh.context or mesh.tensor store less each"
