"""Accelerators by name: their published rates, and devices for which jax can compile without having them."""

import dataclasses
import math
import os
import re
from typing import Any

from experiments.hardware import gpu_schedule
from experiments.hardware.tpu_schedule import ENVIRONMENT
from experiments.settings import extras
from experiments.settings.environment import SIMULATED
from longctx.config import MeshConfig
from longctx.errors import UserError, unknown_name
from longctx.memory import sizes
from pallas_kernels import gpu_chips, tpu_chips

GIB = 2**30
MOST_GPUS = 2**16  # in a target: more than any machine has, and few enough to be listed


@dataclasses.dataclass(frozen=True)
class Chip:
    """Memory and rates of one device of a kind. Rates of links are bytes per second, one way.

    Attributes:
      memory: bytes of device memory that programs can use.
      host, per_host: bytes of a host's memory; devices that share it.
      tflops: peak in bfloat16, 10^12 FLOPs per second.
      near: rate to other devices of its node; for a TPU, along one axis of the torus.
      far: rate to devices of other nodes.
      to_host: rate to its host.
      matmul, forward, backward: fractions of the peak that weight matmuls and attention's kernels reach.
    """

    memory: float
    host: float
    per_host: int
    tflops: float
    near: float
    far: float
    to_host: float
    matmul: float
    forward: float
    backward: float


# The assumptions that every plan rests on. Numbers are published ones, except for our own kernels.
# GPUs: 9/10 of the memory, since libraries and fragmentation need some; a node with 1.9 TB, as ALST's (arXiv
#   2506.13996); a network card per device, of 400 Gbit/s (A100, A800: 200); attention at cuDNN's rate on H100 (figures
#   of arXiv 2407.08608), at FlashAttention-2's on A100 (arXiv 2307.08691).
# TPUs: the memory that libtpu gives out; hosts from cloud.google.com/tpu/docs/v5e, .../v6e, and for v5p and v4
#   cloud.google.com/kubernetes-engine/docs/concepts/tpus; links from jax-ml.github.io/scaling-book; attention by the
#   static schedules of our own kernels, v5p's and v4's backward taken to be v5e's.
CHIPS = {
    "a100": Chip(72 * GIB, 1.9e12, 8, gpu_chips.CHIPS["a100"].tflops, 300e9, 25e9, 25e9, 0.8, 0.70, 0.60),
    "a800": Chip(72 * GIB, 1.9e12, 8, gpu_chips.CHIPS["a800"].tflops, 200e9, 25e9, 25e9, 0.8, 0.70, 0.60),
    "h100": Chip(72 * GIB, 1.9e12, 8, gpu_chips.CHIPS["h100"].tflops, 450e9, 50e9, 50e9, 0.7, 0.56, 0.475),
    "h200": Chip(0.9 * 141e9, 1.9e12, 8, gpu_chips.CHIPS["h200"].tflops, 450e9, 50e9, 50e9, 0.7, 0.56, 0.475),
    "v4": Chip(30.75 * GIB, 407e9, 4, tpu_chips.CHIPS["v4"].tflops, 45e9, 6e9, 16e9, 0.9, 0.90, 0.90),
    "v5e": Chip(15.75 * GIB, 192e9, 4, tpu_chips.CHIPS["v5e"].tflops, 45e9, 6e9, 16e9, 0.9, 0.93, 0.95),
    "v5p": Chip(95.74 * GIB, 448e9, 4, tpu_chips.CHIPS["v5p"].tflops, 90e9, 6e9, 16e9, 0.9, 0.92, 0.90),
    "v6e": Chip(31.25 * GIB, 1536 * GIB, 8, tpu_chips.CHIPS["v6e"].tflops, 90e9, 12e9, 32e9, 0.85, 0.46, 0.58),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A set of devices of one kind.

    Attributes:
      chip: None for simulated devices.
      platform: as jax.jit(...).lower takes it.
      machine: of this machine's own processor, a hardware.cpu.Machine that measures it; None for all others.
    """

    name: str
    chip: Chip | None
    devices: list
    platform: str
    machine: Any = None

    @property
    def host_share(self) -> float:
        """Bytes of host memory per device that is used."""
        return self.chip.host / min(self.chip.per_host, len(self.devices))


def target(name: str, simulate: bool = False) -> Target:
    """The Target that a name such as "h100x8", "v5p:2x2x1" or "cpu", this machine, stands for.

    Sets the environment variables that the compilers need, so it must be called before jax starts.

    simulate: whether "cpu:8", simulated devices, takes the place of "cpu". Raises UserError for an unknown name.
    """
    if simulate and (cpus := re.fullmatch(r"cpu:([1-9]\d*)", name)):
        return Target(name, None, _cpus(int(cpus[1])), "cpu")
    if name == "cpu" and not simulate:
        return _this_machine()
    os.environ.update(ENVIRONMENT, JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1")  # NVIDIA's libraries need not be installed
    gpus, tpus = re.fullmatch(r"([a-z]+\d+)x(\d+)", name), re.fullmatch(r"(\w+):[\dx]+", name)
    if gpus and gpus[1] in CHIPS:
        extras.need(f"compiling for {name}", gpu_schedule.missing("ptxas"))
        return Target(name, CHIPS[gpus[1]], _gpus(gpus[1], int(gpus[2])), "cuda")
    if tpus and tpus[1] in CHIPS:
        extras.need(f"compiling for {name}", extras.missing("libtpu"))
        return Target(name, CHIPS[tpus[1]], _tpus(name), "tpu")
    known = [f"{chip}x8" for chip in CHIPS if chip in gpu_chips.CHIPS]
    known += ["v5p:2x2x1", "v5e:4x4", "v6e:16x16", "v4:2x2x1", "cpu:8" if simulate else "cpu"]
    raise unknown_name("target", name, known)


def of_mesh(mesh) -> Target:
    """The Target of a mesh's own devices; its chip is None where CHIPS does not have them."""
    devices = list(mesh.devices.flat)
    kinds = {chip.kind: name for chips in (gpu_chips.CHIPS, tpu_chips.CHIPS) for name, chip in chips.items()}
    platform = {"gpu": "cuda"}.get(devices[0].platform, devices[0].platform)
    return Target(devices[0].device_kind, CHIPS.get(kinds.get(devices[0].device_kind)), devices, platform)


def check_devices(mesh: MeshConfig, target: Target) -> None:
    """Raises UserError where the mesh has another number of devices than the target."""
    count = len(target.devices)
    if mesh.devices != count:
        raise UserError(
            f"mesh ({mesh}) is of {mesh.devices} devices, and target {target.name} has {count}; "
            f"--config.mesh.context={count} with every other axis 1 would work."
        )


def _this_machine() -> Target:
    """The processor of this machine, one device of as many threads as jax has, by rates that are measured."""
    import jax

    from experiments.hardware.cpu import Machine

    machine, memory = Machine(), sizes.free_memory() or math.inf
    one = dict(near=math.inf, far=math.inf, to_host=math.inf, matmul=1.0, forward=1.0, backward=1.0)
    chip = Chip(memory, memory, 1, machine.peak / 1e12, **one)
    return Target("cpu", chip, jax.devices("cpu")[:1], "cpu", machine)


def _cpus(count: int):
    # nothing is run on these devices: their code need not be fast
    if count > SIMULATED:
        raise UserError(
            f"target cpu:{count} is more than the {SIMULATED} devices that jax can simulate in a process; "
            f"cpu:{SIMULATED} works."
        )
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    import jax

    from longctx import meshes

    meshes.simulate(count)
    return jax.devices()


def _gpus(name: str, count: int):
    if not 1 <= count <= MOST_GPUS:
        raise UserError(f"target {name}x{count} must have from 1 to {MOST_GPUS} devices.")
    nodes = math.ceil(count / CHIPS[name].per_host)
    if count % nodes:
        raise UserError(
            f"target {name}x{count} does not fill nodes of {CHIPS[name].per_host}; "
            f"{name}x{nodes * CHIPS[name].per_host} does."
        )
    return gpu_chips.devices(name, f"1x{nodes}x{count // nodes}")


def _tpus(name: str):
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"target {name!r} is not one that libtpu knows: {error}") from error


def compiled(lowered):
    """The compiled program for a Target, with every donated argument in the memory kind of the result that replaces it.

    GPU devices from a topology description have no memory kinds, so that jax places all arguments in device memory.
    """
    from jax.extend.mlir import ir

    module = lowered.compiler_ir()
    with module.context:
        main = next(op for op in module.body.operations if op.attributes["sym_name"] == ir.StringAttr.get("main"))
        results = [ir.DictAttr(result) for result in main.attributes["res_attrs"]]

        def placed(argument):
            attributes = {a.name: a.attr for a in ir.DictAttr(argument)}
            alias = attributes.get("tf.aliasing_output")
            result = {} if alias is None else results[ir.IntegerAttr(alias).value]
            memory = result["mhlo.memory_kind"] if "mhlo.memory_kind" in result else ir.StringAttr.get("device")
            return ir.DictAttr.get(attributes | {"mhlo.memory_kind": memory})

        main.attributes["arg_attrs"] = ir.ArrayAttr.get([placed(a) for a in main.attributes["arg_attrs"]])
    return lowered.compile()
