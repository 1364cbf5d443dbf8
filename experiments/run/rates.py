"""What the steps of a stage take: FLOPs, as a rate and as a share of what the devices could do, and memory."""

import dataclasses

from experiments.hardware import targets
from experiments.planner.work import work
from longctx import training
from longctx.config import Config
from longctx.data.curriculum import Stage
from longctx.memory import sizes


@dataclasses.dataclass(frozen=True)
class Rates:
    """FLOPs of a stage.

    Attributes:
      per_token: that the model needs, those of attention as if every row were one document; recomputation is not
        counted.
      peak: of all devices per second, in bfloat16 as published; None where it is not known, as of CPUs.
    """

    per_token: float
    peak: float | None

    def at(self, tokens_per_s: float) -> dict[str, float]:
        """The fields of a logged step: flops_per_s of all devices, and mfu, their share of the peak, if it is known."""
        flops = self.per_token * tokens_per_s
        return {"flops_per_s": float(f"{flops:.4g}")} | ({"mfu": round(flops / self.peak, 5)} if self.peak else {})


def of_stage(config: Config, mesh, stage: Stage) -> Rates:
    """The Rates of a stage on a mesh."""
    params = training.abstract_state(config, mesh)["params"]
    flops = work(config, params, stage.seq_len, stage.batch_size).model
    chip = targets.of_mesh(mesh).chip
    return Rates(flops / stage.batch_tokens, chip.tflops * 1e12 * mesh.size if chip else None)


def peak_bytes(mesh) -> int:
    """The most bytes that a device of this process has held so far; or where devices do not say, the process itself."""
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return max(peaks) if peaks else sizes.peak_resident()
