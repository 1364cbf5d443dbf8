"""Facts about TPU generations that kernels choose by, and schedules are priced by. Numbers are per jax device."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation.

    Attributes:
      kind: `device_kind` of its devices.
      topology: the smallest one that its compiler takes.
      tflops: peak, bfloat16, 10^12 per second.
      cores: TensorCores of a device; a kernel's parallel grid axes are split over them.
      mxus: matrix units of a core, each mxu_size x mxu_size.
      matmul_cycles: cycles that 16 rows of bfloat16 occupy one matrix unit.
      hbm: bandwidth, 10^9 bytes per second.
      vmem: of a core, 2^20 bytes.
    """

    kind: str
    topology: str
    tflops: float
    cores: int
    mxus: int
    mxu_size: int
    matmul_cycles: int
    hbm: float
    vmem: int

    @property
    def flops_per_cycle(self) -> float:
        """Peak bfloat16 FLOPs of one core in one cycle."""
        return self.mxus * self.mxu_size**2 * 2 * 16 / self.matmul_cycles

    @property
    def clock(self) -> float:
        """Hz, as it follows from the peak."""
        return self.tflops * 1e12 / (self.cores * self.flops_per_cycle)


CHIPS = {
    "v4": Chip("TPU v4", "v4:2x2x1", 275.0, 2, 4, 128, 16, 1228.0, 16),
    "v5e": Chip("TPU v5 lite", "v5e:2x2", 197.0, 1, 4, 128, 16, 819.0, 128),
    "v5p": Chip("TPU v5", "v5p:2x2x1", 459.0, 2, 4, 128, 16, 2765.0, 64),
    "v6e": Chip("TPU v6 lite", "v6e:2x2", 918.0, 1, 2, 256, 8, 1640.0, 128),
    "tpu7x": Chip("TPU7x", "tpu7x:2x2x1", 1153.5, 1, 2, 256, 8, 3690.0, 64),
}


def target(name: str):
    """A context in which programs are traced for the chip called `name`, whatever the machine has."""
    device = jax.sharding.AbstractDevice(CHIPS[name].kind, CHIPS[name].cores, "tpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def current() -> str | None:
    """The name in CHIPS of what the program is traced for: the ambient mesh's devices, else the default device."""
    target = jax.sharding.get_abstract_mesh().abstract_device
    kind = target.device_kind if target else jax.devices()[0].device_kind
    return next((name for name, chip in CHIPS.items() if chip.kind == kind), None)


def matrix_width() -> int:
    """Rows and columns of a matrix unit of the chip that a program is traced for; 128 where there is none."""
    chip = CHIPS.get(current())
    return chip.mxu_size if chip else 128
