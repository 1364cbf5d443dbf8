"""The training step compiled for a target; tracing, lowering and compiling are reported with their seconds."""

import math
import re

import jax

from experiments.hardware import targets
from experiments.hardware.targets import GIB, Target
from experiments.settings.console import phase
from longctx import optim, training
from longctx.config import Config
from longctx.data.curriculum import Stage
from longctx.errors import UserError
from longctx.memory import remat

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TEMPORARIES = re.compile(r"temporaries \(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")


class DoesNotFit(UserError):
    """The error for a step for which the compiler found too little memory. reason: the compiler's first line."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def compiled(config: Config, stage: Stage, stages: tuple[Stage, ...], mesh, target: Target) -> jax.stages.Compiled:
    """The compiled step of one stage.

    Raises DoesNotFit where the compiler finds too little memory; the message says what would take less.
    """
    with phase("tracing"):
        traced = training.trace_step(config, optim.learning_rate(config.optim, stages), stage, mesh)
    with phase(f"lowering for {target.platform}"):
        lowered = training.lowered(traced, mesh, target.platform)
    try:
        with phase(f"compiling for {len(target.devices)} devices of {target.name}"):
            return lowered.compile() if target.platform == "cpu" else targets.compiled(lowered)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise DoesNotFit(_too_large(config, stage, mesh, target, reason), reason) from error


def _too_large(config, stage, mesh, target, reason: str) -> str:
    """The message for a step that does not fit: memory needed, memory available, and what would take less.

    reason: the compiler's line, whose numbers leave out the program's arguments.
    """
    subject = f"a step of {stage.batch_size} x {stage.seq_len:,} tokens does not fit {target.name}"
    advice = "experiments.plan finds what fits with --find-max-length and --compare=levers"
    if not (numbers := _TEMPORARIES.search(reason)):
        return f"{subject}: {reason} {advice}."
    needed, limit = (float(numbers[i]) * _UNITS[numbers[i + 1]] for i in (1, 3))
    weights, grads = _of_model(config, stage, mesh)
    tokens = math.floor(stage.seq_len * max(limit - weights - grads, 0) / max(needed - grads, 1))
    rows = f"rows of about {tokens:,} tokens (predicted from these numbers)" if tokens else "more devices"
    moved = config.memory.backward != "autodiff" or remat.parse(config.model.remat).moved
    lever = "" if moved else " or model.remat='offload_layer'"
    return (
        f"{subject}: beside {weights / GIB:.2f} GiB of weights and moments it takes {needed / GIB:.2f} of a device, "
        f"which has {limit / GIB:.2f}; {rows}{lever} may fit, and {advice}."
    )


def _of_model(config, stage, mesh) -> tuple[float, float]:
    """Bytes of each device that do not depend on the row: (weights and moments, gradients)."""
    from experiments.meter import memory

    uses = memory.closed_form(config, training.abstract_state(config, mesh), stage.seq_len, stage.batch_size)
    size = lambda *kinds: sum(use.bytes for use in uses if use.kind in kinds and not use.on_host)
    return size("parameters", "optimiser"), size("gradients")
