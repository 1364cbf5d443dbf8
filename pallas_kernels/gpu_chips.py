"""Facts about GPUs that kernels choose by, and that XLA asks for when it compiles with none present."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One model of GPU.

    Attributes:
      kind: `device_kind` of its devices.
      capability: compute capability, (major, minor): what a kernel is dispatched by.
      processors: streaming multiprocessors.
      shared: bytes of shared memory of a processor; a block of threads can have 1024 less.
      tflops: peak, bfloat16, dense, 10^12 per second.
      bandwidth: of its memory, bytes per second.
      memory, l2: bytes.
      clock: 10^9 Hz, at most.
    """

    kind: str
    capability: tuple[int, int]
    processors: int
    shared: int
    tflops: float
    bandwidth: int
    memory: int
    l2: int
    clock: float

    @property
    def block_shared(self) -> int:
        """Bytes of shared memory that one block of threads can have."""
        return self.shared - 1024


_AMPERE = (8, 0), 108, 167_936, 312.0, 2_039_040_000_000, 85_100_068_864, 41_943_040, 1.41
CHIPS = {
    "a100": Chip("NVIDIA A100-SXM4-80GB", *_AMPERE),
    "a800": Chip("NVIDIA A800-SXM4-80GB", *_AMPERE),
    "h100": Chip(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 233_472, 989.0, 3_352_320_000_000, 84_942_979_072, 52_428_800, 1.98
    ),
    "h200": Chip("NVIDIA H200", (9, 0), 132, 233_472, 989.0, 4_800_000_000_000, 151_397_597_184, 52_428_800, 1.98),
    "b200": Chip("NVIDIA B200", (10, 0), 148, 233_472, 2250.0, 7_672_320_000_000, 191_514_411_008, 132_644_864, 1.965),
}
# of capabilities that are not in CHIPS
_BLOCK_SHARED = {(8, 6): 101_376, (8, 7): 166_912, (8, 9): 101_376, (12, 0): 101_376}
_CONFIG = """gpu_device_info {{
  name: "{kind}" core_count: {processors} memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {clock}
  device_memory_size: {memory} shared_memory_per_core: {shared} shared_memory_per_block_optin: {block_shared}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {features} }}
  driver_version: "13.0.0" fpus_per_core: 128
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 shared_memory_per_block: 49152
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
}}
platform_name: "CUDA" device_description_str: "{kind}" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}"""


def devices(name: str, topology: str = "1x1x1") -> list:
    """Devices of the chip called `name` that programs can be compiled for, and not run on.

    topology: "1 x nodes x devices of each". Needs jax's CUDA plugin, and ptxas where jax finds it.
    """
    from jax.experimental import topologies

    chip = CHIPS[name]
    major, minor = chip.capability
    features = "ACCELERATED_FEATURES" if major >= 9 else "NONE"  # wgmma, tcgen05 are in sm_90a, sm_100a alone
    text = _CONFIG.format(
        **dataclasses.asdict(chip), block_shared=chip.block_shared, major=major, minor=minor, features=features
    )
    return topologies.get_topology_desc(
        platform="cuda", topology_name=name, target_config=text, topology=topology
    ).devices


def target(name: str):
    """A context in which programs are traced for the chip called `name`, whatever the machine has."""
    chip = CHIPS[name]
    device = jax.sharding.AbstractDevice(chip.kind, chip.processors, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def capability() -> tuple[int, int] | None:
    """The compute capability of what the program is traced for: the ambient mesh's devices, else the default device.

    None where that is no GPU of NVIDIA's. A GPU that is here says it itself; one that is not must be in CHIPS.
    """
    target, device = jax.sharding.get_abstract_mesh().abstract_device, jax.devices()[0]
    if target and target.device_kind != device.device_kind:
        return next((chip.capability for chip in CHIPS.values() if chip.kind == target.device_kind), None)
    text = device.compute_capability if device.platform == "gpu" else ""
    return tuple(map(int, text.split("."))) if text[:1].isdigit() else None  # AMD's are words: gfx942


def processors() -> int:
    """Streaming multiprocessors of what the program is traced for; an A100's where that is no GPU or does not say."""
    target, device = jax.sharding.get_abstract_mesh().abstract_device, jax.devices()[0]
    traced_for = target.num_cores if target else getattr(device, "core_count", None)
    return traced_for or CHIPS["a100"].processors


def block_shared(capability: tuple[int, int] | None) -> int:
    """Bytes of shared memory that a block of threads can have; where that is not known, what all have since 2018."""
    known = {chip.capability: chip.block_shared for chip in CHIPS.values()}
    return (known | _BLOCK_SHARED).get(capability, 65_536)
