"""The longest row that fits, and which of several ways is the best."""

import dataclasses
import math

from experiments.hardware.targets import Target
from experiments.planner.plan import Plan, plan
from experiments.settings import checks
from experiments.settings import config as configs
from longctx.config import Config
from longctx.errors import UserError, unknown_name

_CLOSE = 1.03  # how much longer a row that does not fit may be than the one that is found
_MOST = 6  # compiles


def plan_of(config: Config, target: Target) -> Plan:
    """The plan of the longest stage of a config. Raises UserError for settings that do not go together."""
    stages = checks.check_settings(config)
    return plan(config, max(stages, key=lambda stage: stage.seq_len), stages, target)


def longest(config: Config, target: Target, report) -> Plan:
    """The plan of the longest row that fits, of one stage with one row for each of data and fsdp.

    Bytes grow linearly with a row, so that two lengths tell where they reach a limit; there the compiler has the last
    word.
    report: called with every plan on the way.
    """
    unit = _unit(config)
    found = {}

    def tried(units: int) -> Plan:
        if units not in found:
            found[units] = plan_of(with_length(config, units * unit), target)
            report(found[units])
        return found[units]

    first = max(config.stages[-1].seq_len // unit, 1)
    while not tried(first).fits:
        if first == 1:
            return found[1]
        first = max(first // 4, 1)
    second = tried(2 * first)
    low, high = (2 * first, math.inf) if second.fits else (first, 2 * first)
    while len(found) < _MOST and high > (close := math.ceil(low * _CLOSE)):
        units = max(_where_it_ends(found), close)
        units = units if units < high else max((low + high) // 2, close)
        low, high = (units, high) if tried(units).fits else (low, units)
    return found[low]


def with_length(config: Config, length: int) -> Config:
    """The config with one stage, of rows that long."""
    stage = dataclasses.replace(config.stages[-1], seq_len=length, batch_tokens=0)
    return dataclasses.replace(config, stages=(stage,), batch_tokens=length * config.mesh.data * config.mesh.fsdp)


def variants(config: Config, what: str) -> dict[str, Config]:
    """Those that --compare=what ranks, by name. Raises UserError for a name that is not known."""
    if what not in VARIANTS:
        raise unknown_name("--compare", what, VARIANTS)
    return VARIANTS[what](config)


def each(config: Config, what: str, take, report) -> tuple[dict, dict[str, str]]:
    """(what `take` makes of each of the variants, why the others cannot be taken), by name; report: called with every
    name and what was made."""
    found, failed = {}, {}
    for name, variant in variants(config, what).items():
        try:
            found[name] = take(variant)
            report(name, found[name])
        except UserError as error:
            failed[name] = str(error)
    return found, failed


def _unit(config):
    """What lengths are multiples of: chunks, else 128 tokens for each half of a shard."""
    return config.memory.chunk_tokens or 256 * config.mesh.context_shards


def _where_it_ends(found: dict[int, Plan]) -> int:
    """The last length at which both memories are enough, along the line through two lengths; 0 where none is known."""
    sized = sorted(units for units, one in found.items() if one.memory)
    if len(sized) < 2:
        return 0
    a, b = sized[0], sized[-1]
    ends = []
    for on_host in (False, True):
        slope = (found[b].used(on_host) - found[a].used(on_host)) / (b - a)
        if slope > 0:
            ends.append(b + (found[b].limit(on_host) - found[b].used(on_host)) / slope)
    return math.floor(min(ends, default=0))


def _strategies(config):
    from longctx.context_parallel.api import STRATEGIES

    return {f"strategy {name}": configs.with_attention(config, strategy=name) for name in STRATEGIES if name != "local"}


def _meshes(config):
    """The devices of context and context_outer, cut in every way between context and tensor."""
    size = config.mesh.context * config.mesh.tensor
    parts = [n for n in range(1, size + 1) if size % n == 0]
    return {
        f"context {n} x tensor {size // n}": dataclasses.replace(
            config, mesh=dataclasses.replace(config.mesh, context=n, tensor=size // n)
        )
        for n in parts
    }


def _levers(config):
    """What a layer keeps, by autodiff."""
    policies = ("layer", "attention", "offload_layer", "offload_attention", "tokens(0, 0.25)")
    return {
        f"remat {name}": dataclasses.replace(config, model=dataclasses.replace(config.model, remat=name))
        for name in policies
    }


VARIANTS = {"strategies": _strategies, "meshes": _meshes, "levers": _levers}
