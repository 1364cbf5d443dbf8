"""Plan: the memory, FLOPs and predicted time of one config's step, compiled for one target."""

import collections
import dataclasses
import time

from experiments.hardware import targets
from experiments.hardware.targets import Target
from experiments.hlo import program
from experiments.hlo.loops import Certainty
from experiments.meter import memory, step_program
from experiments.meter.memory import Memory
from experiments.planner import cpu_time
from experiments.planner import time as chip_time
from experiments.planner.time import Time
from experiments.planner.work import Work, work
from longctx import meshes, training
from longctx.config import Config
from longctx.data.curriculum import Stage


@dataclasses.dataclass(frozen=True)
class Plan:
    """The resources that one step needs.

    Attributes:
      stage: of the curriculum; its step was compiled.
      memory: of each device, by kind; empty where the compiler refused.
      refused: the compiler's message where it found too little memory.
      compiled_matmuls: FLOPs of the program's matmuls on all devices, without attention in plain JAX.
      kernels: (name, runs) of the program's custom kernels.
    """

    config: Config
    target: Target
    stage: Stage
    work: Work
    seconds_to_compile: float
    memory: tuple[Memory, ...] = ()
    refused: str = ""
    compiled_matmuls: float = 0.0
    kernels: tuple[tuple[str, int], ...] = ()
    time: Time | None = None

    def used(self, on_host: bool) -> float:
        """Bytes used per device, in host memory or in its own."""
        return memory.total(self.memory, on_host)

    def limit(self, on_host: bool) -> float:
        """Bytes available per device, in host memory or in its own."""
        return self.target.host_share if on_host else self.target.chip.memory

    @property
    def fits(self) -> bool:
        """Whether the step fits. On TPUs the compiler decides, whose count of temporaries is a little high."""
        on_device = self.target.platform == "tpu" or self.used(False) <= self.limit(False)
        return not self.refused and on_device and self.used(True) <= self.limit(True)

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: the model's FLOPs in the predicted time, as a fraction of the peak."""
        return self.work.model / self.time.step / (self.target.chip.tflops * 1e12 * self.config.mesh.devices)

    @property
    def assumptions(self) -> list[str]:
        """The assumptions behind the predicted time, for people to read."""
        machine = self.target.machine
        return cpu_time.assumptions(machine) if machine else chip_time.assumptions(self.target)


def plan(config: Config, stage: Stage, stages: tuple[Stage, ...], target: Target) -> Plan:
    """The plan of one stage. Raises UserError where the target has not the number of devices of the mesh."""
    targets.check_devices(config.mesh, target)
    start, mesh = time.monotonic(), meshes.make(config.mesh, target.devices)
    state, shape = training.abstract_state(config, mesh), (stage.seq_len, stage.batch_size)
    flops = work(config, state["params"], *shape)
    try:
        compiled = step_program.compiled(config, stage, stages, mesh, target)
    except step_program.DoesNotFit as error:
        return Plan(config, target, stage, flops, time.monotonic() - start, refused=error.reason)
    uses = memory.with_rest(memory.closed_form(config, state, *shape), compiled.memory_analysis())
    text = compiled.as_text()
    step = program.read(text, mesh)
    exact = [matmul for matmul in step.matmuls if matmul.runs.certainty is Certainty.EXACT]
    kernels = collections.Counter()
    for kernel in step.kernels:
        kernels[kernel.name] += kernel.runs.times
    return Plan(
        config,
        target,
        stage,
        flops,
        time.monotonic() - start,
        memory=tuple(uses),
        compiled_matmuls=program.total(exact, "flops") * mesh.size,
        kernels=tuple(sorted(kernels.items())),
        time=_time(config, target, flops, stage.seq_len, step, text),
    )


def _time(config: Config, target: Target, work: Work, length: int, step: program.Program, text: str) -> Time:
    """The predicted Time of one step, by prices measured on this machine or by published rates of others."""
    if target.machine:
        return cpu_time.predict(config, target.machine, work, length, text)
    return chip_time.predict(config, target, work, step)
