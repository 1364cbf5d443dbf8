"""The training step compiled for a target, and said on the way: tracing, lowering, compiling, each with its seconds."""

import math
import re

import jax

from experiments.hardware import targets
from experiments.hardware.targets import GIB, Target
from experiments.settings.console import phase
from longctx import optim, train_step
from longctx.config import Config
from longctx.data.curriculum import Stage
from longctx.errors import UserError
from longctx.memory import remat

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TEMPORARIES = re.compile(r"temporaries \(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")


class DoesNotFit(UserError):
    """The compiler found too little memory for a step. said: its first line."""

    def __init__(self, message: str, said: str):
        super().__init__(message)
        self.said = said


def compiled(config: Config, stage: Stage, stages: tuple[Stage, ...], mesh, target: Target) -> jax.stages.Compiled:
    """The step of one stage. Raises DoesNotFit where the compiler finds too little memory, with what takes less."""
    with phase("tracing"):
        traced = train_step.trace_step(config, optim.learning_rate(config.optim, stages), stage, mesh)
    with phase(f"lowering for {target.platform}"):
        lowered = train_step.lowered(traced, mesh, target.platform)
    try:
        with phase(f"compiling for {len(target.devices)} devices of {target.name}"):
            return lowered.compile() if target.platform == "cpu" else targets.compiled(lowered)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).splitlines()[0]
        raise DoesNotFit(_too_large(config, stage, mesh, target, said), said) from error


def _too_large(config, stage, mesh, target, said: str) -> str:
    """How much it takes, how much there is, and what takes less; said: by the compiler, of what is not an argument."""
    what = f"a step of {stage.batch_size} x {stage.seq_len:,} tokens does not fit {target.name}"
    finds = "experiments.plan finds what fits with --find-max-length and --compare=levers"
    if not (numbers := _TEMPORARIES.search(said)):
        return f"{what}: {said} {finds}."
    needed, limit = (float(numbers[i]) * _UNITS[numbers[i + 1]] for i in (1, 3))
    weights, grads = _of_model(config, stage, mesh)
    tokens = math.floor(stage.seq_len * max(limit - weights - grads, 0) / max(needed - grads, 1))
    rows = f"rows of about {tokens:,} tokens (predicted from these numbers)" if tokens else "more devices"
    moved = config.memory.backward != "autodiff" or remat.parse(config.model.remat).moved
    lever = "" if moved else " or model.remat='offload_layer'"
    return (
        f"{what}: beside {weights / GIB:.2f} GiB of weights and moments it takes {needed / GIB:.2f} of a device, "
        f"which has {limit / GIB:.2f}; {rows}{lever} may fit, and {finds}."
    )


def _of_model(config, stage, mesh) -> tuple[float, float]:
    """Bytes of a device that no shorter row spares: of weights and moments, of gradients."""
    from experiments.meter import memory

    found = memory.known(config, train_step.abstract_state(config, mesh), stage.seq_len, stage.batch_size)
    of = lambda *kinds: sum(one.bytes for one in found if one.kind in kinds and not one.on_host)
    return of("parameters", "optimiser"), of("gradients")
