"""Accelerators that need not be here: what is known of them, and devices that jax can compile for."""
import dataclasses
import math
import os
import re

from experiments.tpu_schedule import ENVIRONMENT
from longctx.config import MeshConfig
from longctx.errors import UserError, unknown_name
from pallas_kernels import tpu_chips

GIB = 2**30


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
    "a100": Chip(72 * GIB, 1.9e12, 8, 312, 300e9, 25e9, 25e9, 0.8, 0.70, 0.60),
    "a800": Chip(72 * GIB, 1.9e12, 8, 312, 200e9, 25e9, 25e9, 0.8, 0.70, 0.60),
    "h100": Chip(72 * GIB, 1.9e12, 8, 989, 450e9, 50e9, 50e9, 0.7, 0.56, 0.475),
    "h200": Chip(0.9 * 141e9, 1.9e12, 8, 989, 450e9, 50e9, 50e9, 0.7, 0.56, 0.475),
    "v4": Chip(30.75 * GIB, 407e9, 4, tpu_chips.CHIPS["v4"].tflops, 45e9, 6e9, 16e9, 0.9, 0.90, 0.90),
    "v5e": Chip(15.75 * GIB, 192e9, 4, tpu_chips.CHIPS["v5e"].tflops, 45e9, 6e9, 16e9, 0.9, 0.93, 0.95),
    "v5p": Chip(95.74 * GIB, 448e9, 4, tpu_chips.CHIPS["v5p"].tflops, 90e9, 6e9, 16e9, 0.9, 0.92, 0.90),
    "v6e": Chip(31.25 * GIB, 1536 * GIB, 8, tpu_chips.CHIPS["v6e"].tflops, 90e9, 12e9, 32e9, 0.85, 0.46, 0.58),
}
# facts that XLA asks for: name, compute capability, processors, bytes/s, bytes of L2, GHz, bytes of memory and of
# shared memory
_A100 = (8, 0), 108, 2_039_040_000_000, 41_943_040, 1.41, 85_100_068_864, 167_936
_HOPPER = (9, 0), 132
_GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", *_A100), "a800": ("NVIDIA A800-SXM4-80GB", *_A100),
    "h100": ("NVIDIA H100 80GB HBM3", *_HOPPER, 3_352_320_000_000, 52_428_800, 1.98, 84_942_979_072, 233_472),
    "h200": ("NVIDIA H200 141GB HBM3e", *_HOPPER, 4_800_000_000_000, 52_428_800, 1.98, 151_397_597_184, 233_472),
}
_GPU_TEXT = """gpu_device_info {{
  name: "{name}" core_count: {cores} memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {clock}
  device_memory_size: {memory} shared_memory_per_core: {shared} shared_memory_per_block_optin: {most}
  cuda_compute_capability {{ major: {major} minor: {minor} }} driver_version: "13.0.0" fpus_per_core: 128
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 shared_memory_per_block: 49152
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
}}
platform_name: "CUDA" device_description_str: "{name}" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}"""


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
    os.environ.update(ENVIRONMENT, JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1")     # no libraries of NVIDIA are here
    gpus, tpus = re.fullmatch(r"([a-z]+\d+)x(\d+)", name), re.fullmatch(r"(\w+):[\dx]+", name)
    if gpus and gpus[1] in _GPUS:
        return Target(name, CHIPS[gpus[1]], _gpus(gpus[1], int(gpus[2])), "cuda")
    if tpus and tpus[1] in CHIPS:
        return Target(name, CHIPS[tpus[1]], _tpus(name), "tpu")
    known = [f"{gpu}x8" for gpu in _GPUS] + ["v5p:2x2x1", "v5e:4x4", "v6e:16x16", "v4:2x2x1"] + ["cpu:8"] * simulate
    raise unknown_name("target", name, known)


def check_devices(mesh: MeshConfig, target: Target) -> None:
    """Raises UserError where the mesh is not of the target's devices."""
    count = len(target.devices)
    if mesh.devices != count:
        raise UserError(f"mesh ({mesh}) is of {mesh.devices} devices, and target {target.name} has {count}; "
                        f"--config.mesh.context={count} with every other axis 1 would work.")


def _cpus(count: int):
    # nothing is run there: its code need not be fast
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    import jax

    from longctx import meshes
    meshes.simulate(count)
    return jax.devices()


def _gpus(name: str, count: int):
    from jax.experimental import topologies
    description, (major, minor), cores, bandwidth, l2, clock, memory, shared = _GPUS[name]
    facts = _GPU_TEXT.format(name=description, cores=cores, bandwidth=bandwidth, l2=l2, clock=clock, memory=memory,
                             shared=shared, most=shared - 1024, major=major, minor=minor)
    nodes = math.ceil(count / CHIPS[name].per_host)
    if count % nodes:
        raise UserError(f"target {name}x{count} does not fill nodes of {CHIPS[name].per_host}; "
                        f"{name}x{nodes * CHIPS[name].per_host} does.")
    return topologies.get_topology_desc(platform="cuda", topology_name=name, target_config=facts,
                                        topology=f"1x{nodes}x{count // nodes}").devices


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
