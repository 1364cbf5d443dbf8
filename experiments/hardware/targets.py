"""Accelerators that need not be here: what is known of them, and devices that jax can compile for."""

import dataclasses
import math
import os
import re

from experiments.hardware import gpu_schedule
from experiments.hardware.tpu_schedule import ENVIRONMENT
from experiments.settings import extras
from experiments.settings.environment import SIMULATED
from longctx.config import MeshConfig
from longctx.errors import UserError, unknown_name
from pallas_kernels import gpu_chips, tpu_chips

GIB = 2**30
MOST_GPUS = 2**16  # of a target: more than any machine has, and few enough to be listed


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a kind. Rates are bytes per second, one way.

    Attributes:
      memory: bytes that programs can have of its own.
      host, per_host: bytes of a host's memory; devices that share it.
      tflops: peak, bfloat16, 10^12 per second.
      near: to other devices of its node; of a TPU, along one axis of the torus.
      far: to those of other nodes.
      to_host: to its host.
      matmul, forward, backward: shares of the peak that weight matmuls and attention's kernels reach.
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


# What is not a kernel of ours is published, and assumed here: that is what a plan rests on.
# GPUs: 9/10 of the memory, for libraries and fragments need some; a node of 1.9 TB, as ALST's (arXiv 2506.13996); a
#   network card each, of 400 Gbit/s (A100, A800: 200); attention as cuDNN's on H100 (figures of arXiv 2407.08608), on
#   A100 as FlashAttention-2's (arXiv 2307.08691).
# TPUs: of their memory what libtpu gives out; hosts as in cloud.google.com/tpu/docs/v5e, .../v6e, and for v5p and v4
#   cloud.google.com/kubernetes-engine/docs/concepts/tpus; links as in jax-ml.github.io/scaling-book; attention by the
#   static schedules of our own kernels (README), v5p's and v4's backward as v5e's.
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
    """Devices of one kind. platform: as jax.jit(...).lower takes it. chip: None for simulated ones."""

    name: str
    chip: Chip | None
    devices: list
    platform: str

    @property
    def host_share(self) -> float:
        """Bytes of a host's memory for each device, all of it if fewer than a host's devices are used."""
        return self.chip.host / min(self.chip.per_host, len(self.devices))


def target(name: str, simulate: bool = False) -> Target:
    """That of "h100x8", "v5p:2x2x1" and so on; sets what the compilers want in the environment: call before jax starts.

    simulate: whether "cpu:8" is one too. Raises UserError for a name that is not known.
    """
    if simulate and (cpus := re.fullmatch(r"cpu:([1-9]\d*)", name)):
        return Target(name, None, _cpus(int(cpus[1])), "cpu")
    os.environ.update(ENVIRONMENT, JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1")  # no libraries of NVIDIA are here
    gpus, tpus = re.fullmatch(r"([a-z]+\d+)x(\d+)", name), re.fullmatch(r"(\w+):[\dx]+", name)
    if gpus and gpus[1] in CHIPS:
        extras.need(f"compiling for {name}", gpu_schedule.missing("ptxas"))
        return Target(name, CHIPS[gpus[1]], _gpus(gpus[1], int(gpus[2])), "cuda")
    if tpus and tpus[1] in CHIPS:
        extras.need(f"compiling for {name}", extras.missing("libtpu"))
        return Target(name, CHIPS[tpus[1]], _tpus(name), "tpu")
    known = [f"{chip}x8" for chip in CHIPS if chip in gpu_chips.CHIPS]
    known += ["v5p:2x2x1", "v5e:4x4", "v6e:16x16", "v4:2x2x1"] + ["cpu:8"] * simulate
    raise unknown_name("target", name, known)


def here(mesh) -> Target:
    """That of a mesh's own devices; chip: None where they are not known."""
    devices = list(mesh.devices.flat)
    kinds = {chip.kind: name for known in (gpu_chips.CHIPS, tpu_chips.CHIPS) for name, chip in known.items()}
    platform = {"gpu": "cuda"}.get(devices[0].platform, devices[0].platform)
    return Target(devices[0].device_kind, CHIPS.get(kinds.get(devices[0].device_kind)), devices, platform)


def check_devices(mesh: MeshConfig, target: Target) -> None:
    """Raises UserError where the mesh is not of the target's devices."""
    count = len(target.devices)
    if mesh.devices != count:
        raise UserError(
            f"mesh ({mesh}) is of {mesh.devices} devices, and target {target.name} has {count}; "
            f"--config.mesh.context={count} with every other axis 1 would work."
        )


def _cpus(count: int):
    # nothing is run there: its code need not be fast
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
    """The program for a Target, with every donated argument in the memory of the result that replaces it.

    Devices described by a topology of GPUs have no memories: there jax takes all arguments to be on the device.
    """
    from jax.extend.mlir import ir

    module = lowered.compiler_ir()
    with module.context:
        main = next(op for op in module.body.operations if op.attributes["sym_name"] == ir.StringAttr.get("main"))
        results = [ir.DictAttr(result) for result in main.attributes["res_attrs"]]

        def placed(argument):
            named = {a.name: a.attr for a in ir.DictAttr(argument)}
            alias = named.get("tf.aliasing_output")
            result = {} if alias is None else results[ir.IntegerAttr(alias).value]
            memory = result["mhlo.memory_kind"] if "mhlo.memory_kind" in result else ir.StringAttr.get("device")
            return ir.DictAttr.get(named | {"mhlo.memory_kind": memory})

        main.attributes["arg_attrs"] = ir.ArrayAttr.get([placed(a) for a in main.attributes["arg_attrs"]])
    return lowered.compile()
