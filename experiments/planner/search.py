"""Searches over plans: the longest row that fits, and a comparison of strategies, meshes or remat policies."""

import dataclasses
import math

from experiments.hardware.targets import Target
from experiments.planner.plan import Plan, plan
from experiments.settings import checks
from experiments.settings import config as configs
from longctx.config import Config
from longctx.errors import UserError, unknown_name

_CLOSE = 1.03  # the search ends when a row this much longer than the longest that fits does not fit
_MOST = 6  # compiles


def plan_of(config: Config, target: Target) -> Plan:
    """The plan of the longest stage of a config. Raises UserError for settings that do not go together."""
    stages = checks.check_settings(config)
    return plan(config, max(stages, key=lambda stage: stage.seq_len), stages, target)


def longest(config: Config, target: Target, report) -> Plan:
    """The plan of the longest row that fits, with one stage and one row on each data-parallel device.

    Bytes grow linearly with the row, so two lengths predict where they reach a limit; around it the compiler decides.
    report: called with every plan on the way.
    """
    unit = _unit(config)
    plans = {}  # by length, in units

    def plan_for(units: int) -> Plan:
        if units not in plans:
            plans[units] = plan_of(with_length(config, units * unit), target)
            report(plans[units])
        return plans[units]

    first = max(config.stages[-1].seq_len // unit, 1)
    while not plan_for(first).fits:
        if first == 1:
            return plans[1]
        first = max(first // 4, 1)
    second = plan_for(2 * first)
    low, high = (2 * first, math.inf) if second.fits else (first, 2 * first)
    while len(plans) < _MOST and high > (close := math.ceil(low * _CLOSE)):
        units = max(_predicted_limit(plans), close)
        units = units if units < high else max((low + high) // 2, close)
        low, high = (units, high) if plan_for(units).fits else (low, units)
    return plans[low]


def with_length(config: Config, length: int) -> Config:
    """The config with a single stage, whose rows have `length` tokens."""
    stage = dataclasses.replace(config.stages[-1], seq_len=length, batch_tokens=0)
    alone = dataclasses.replace(config.attention, across_rows=False)
    rows = config.mesh.data * config.mesh.fsdp * config.memory.grad_accumulation
    return dataclasses.replace(config, stages=(stage,), attention=alone, batch_tokens=length * rows)


def variants(config: Config, what: str) -> dict[str, Config]:
    """{name: config} of the variants that --compare=what ranks. Raises UserError for an unknown `what`."""
    if what not in VARIANTS:
        raise unknown_name("--compare", what, VARIANTS)
    return VARIANTS[what](config)


def each(config: Config, what: str, make, report) -> tuple[dict, dict[str, str]]:
    """({name: make(variant)}, {name: reason} of the variants that cannot be made).

    report: called with every name and result.
    """
    results, failed = {}, {}
    for name, variant in variants(config, what).items():
        try:
            results[name] = make(variant)
            report(name, results[name])
        except UserError as error:
            failed[name] = str(error)
    return results, failed


def _unit(config):
    """The tokens that divide every length: a chunk, else 128 tokens for each half of a shard."""
    return config.memory.chunk_tokens or 256 * config.mesh.context_shards


def _predicted_limit(plans: dict[int, Plan]) -> int:
    """The longest row for which both memories suffice, by the line through two plans; 0 with fewer than two."""
    sized = sorted(units for units, plan in plans.items() if plan.memory)
    if len(sized) < 2:
        return 0
    a, b = sized[0], sized[-1]
    limits = []
    for on_host in (False, True):
        slope = (plans[b].used(on_host) - plans[a].used(on_host)) / (b - a)
        if slope > 0:
            limits.append(b + (plans[b].limit(on_host) - plans[b].used(on_host)) / slope)
    return math.floor(min(limits, default=0))


def _strategies(config):
    from longctx.context_parallel.api import STRATEGIES

    return {f"strategy {name}": configs.with_attention(config, strategy=name) for name in STRATEGIES if name != "local"}


def _meshes(config):
    """Every split of the devices of context and tensor between these two axes."""
    size = config.mesh.context * config.mesh.tensor
    parts = [n for n in range(1, size + 1) if size % n == 0]
    return {
        f"context {n} x tensor {size // n}": dataclasses.replace(
            config, mesh=dataclasses.replace(config.mesh, context=n, tensor=size // n)
        )
        for n in parts
    }


def _levers(config):
    """Remat policies: what a layer keeps for its backward."""
    policies = ("layer", "attention", "offload_layer", "offload_attention", "tokens(0, 0.25)")
    return {
        f"remat {name}": dataclasses.replace(config, model=dataclasses.replace(config.model, remat=name))
        for name in policies
    }


VARIANTS = {"strategies": _strategies, "meshes": _meshes, "levers": _levers}
