"""A plan: one config's step compiled for one target, and what follows from it."""

import dataclasses
import time

from experiments.hardware import targets
from experiments.hardware.targets import Target
from experiments.hlo import program
from experiments.meter import memory, step_program
from experiments.meter.memory import Memory
from experiments.planner.time import Time, predict
from experiments.planner.work import Work, work
from longctx import meshes, train_step
from longctx.config import Config
from longctx.data.curriculum import Stage


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step asks for.

    Attributes:
      stage: of the curriculum; its step is the one that was compiled.
      memory: of each device, by kind; empty where the compiler refused.
      refused: what the compiler said, if it found too little memory.
      compiled_matmuls: FLOPs that the program's own matmuls do on all devices, attention's in plain JAX left out.
      kernels: names of the program's custom kernels, and how often each is run.
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
        """Bytes of each device, or of its host's share."""
        return memory.total(self.memory, on_host)

    def limit(self, on_host: bool) -> float:
        return self.target.host_share if on_host else self.target.chip.memory

    @property
    def fits(self) -> bool:
        """On TPUs by the compiler's own verdict, whose count of temporaries is a little high."""
        on_device = self.target.platform == "tpu" or self.used(False) <= self.limit(False)
        return not self.refused and on_device and self.used(True) <= self.limit(True)

    @property
    def mfu(self) -> float:
        """Of the peak, what the model asks for in the predicted time."""
        return self.work.model / self.time.step / (self.target.chip.tflops * 1e12 * self.config.mesh.devices)


def plan(config: Config, stage: Stage, stages: tuple[Stage, ...], target: Target) -> Plan:
    """That of one stage. Raises UserError where the mesh is not of the target's devices."""
    targets.check_devices(config.mesh, target)
    start, mesh = time.monotonic(), meshes.make(config.mesh, target.devices)
    state, how = train_step.abstract_state(config, mesh), (stage.seq_len, stage.batch_size)
    whole = work(config, state["params"], *how)
    try:
        compiled = step_program.compiled(config, stage, stages, mesh, target)
    except step_program.DoesNotFit as error:
        return Plan(config, target, stage, whole, time.monotonic() - start, refused=error.said)
    found = memory.with_rest(memory.known(config, state, *how), compiled.memory_analysis())
    read = program.read(compiled.as_text(), mesh)
    exact = [one for one in read.matmuls if not one.runs.known]
    kernels = {
        name: sum(one.runs.times for one in read.kernels if one.name == name)
        for name in sorted({one.name for one in read.kernels})
    }
    return Plan(
        config,
        target,
        stage,
        whole,
        time.monotonic() - start,
        tuple(found),
        "",
        program.total(exact, "flops") * mesh.size,
        tuple(kernels.items()),
        predict(config, target, whole, read),
    )
