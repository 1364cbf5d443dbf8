"""What a training step asks of devices that are not here: bytes, as the compiler for them counts.

    pip install -e '.[aot]'
    python -m experiments.compile_memory h100x8 --config FILE [--config.memory.mlp_tiles=16 ...]

Targets: v5p:2x2x1, v5e:4x4, v6e:16x16 and so on, TPU slices that libtpu knows; h100x8 and so on, so many of GPUS, 8 to
a node. Compiles the step of the longest stage, in minutes, with what every backend can do ("auto" is plain JAX), and
prints one line of JSON, GiB of each device: arguments (parameters, moments, batch), temporaries, the same on its host.
The TPU compiler refuses what does not fit, and overstates temporaries a little. The one for GPUs refuses nothing.
"""
import json
import os
import re
import time

from experiments import config as configs
from experiments.tpu_schedule import ENVIRONMENT
from longctx.errors import UserError, unknown_name

# facts of the chips that XLA asks for: processors, bytes/s, bytes of L2, GHz, bytes of memory, and of shared memory
GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", (8, 0), 108, 2_039_040_000_000, 41_943_040, 1.41, 85_100_068_864, 167_936),
    "h100": ("NVIDIA H100 80GB HBM3", (9, 0), 132, 3_352_320_000_000, 52_428_800, 1.98, 84_942_979_072, 233_472),
    "h200": ("NVIDIA H200 141GB HBM3e", (9, 0), 132, 4_800_000_000_000, 52_428_800, 1.98, 151_397_597_184, 233_472),
}
_GPU = """gpu_device_info {{
  name: "{name}" core_count: {cores} memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {clock}
  device_memory_size: {memory} shared_memory_per_core: {shared} shared_memory_per_block_optin: {most}
  cuda_compute_capability {{ major: {major} minor: {minor} }} driver_version: "13.0.0" fpus_per_core: 128
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 shared_memory_per_block: 49152
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
}}
platform_name: "CUDA" device_description_str: "{name}" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}"""
GIB = 2**30


def devices_of(target: str):
    """Devices to compile for. Raises UserError for a target that is not known."""
    from jax.experimental import topologies
    gpus = re.fullmatch(r"([a-z]+\d+)x(\d+)", target)
    if not gpus:
        try:
            return topologies.get_topology_desc(platform="tpu", topology_name=target).devices
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise UserError(f"target {target!r} is not one that libtpu knows: {error}") from error
    name, count = gpus[1], int(gpus[2])
    if name not in GPUS:
        raise unknown_name("target", name, GPUS)
    description, (major, minor), cores, bandwidth, l2, clock, memory, shared = GPUS[name]
    facts = _GPU.format(name=description, cores=cores, bandwidth=bandwidth, l2=l2, clock=clock, memory=memory,
                        shared=shared, most=shared - 1024, major=major, minor=minor)
    nodes = -(-count // 8)
    return topologies.get_topology_desc(platform="cuda", topology_name=name, target_config=facts,
                                        topology=f"1x{nodes}x{count // nodes}").devices


def with_memories(lowered):
    """The program with every donated argument in the memory of the result that replaces it.

    Devices described by a topology of GPUs have no memories: there jax takes all arguments to be on the device.
    """
    from jax.extend.mlir import ir
    module = lowered.compiler_ir()
    with module.context:
        main = next(op for op in module.body.operations if op.attributes.get("sym_name") == ir.StringAttr.get("main"))
        named = lambda attributes: {a.name: a.attr for a in ir.DictAttr(attributes)}
        on_device = {"mhlo.memory_kind": ir.StringAttr.get("device")}
        results = [on_device | named(attributes) for attributes in main.attributes["res_attrs"]]

        def placed(attributes):
            mine = on_device | named(attributes)
            if "tf.aliasing_output" in mine:
                result = results[ir.IntegerAttr(mine["tf.aliasing_output"]).value]
                mine["mhlo.memory_kind"] = result["mhlo.memory_kind"]
            return ir.DictAttr.get(mine)
        main.attributes["arg_attrs"] = ir.ArrayAttr.get([placed(a) for a in main.attributes["arg_attrs"]])
    return lowered


def main(argv) -> None:
    if len(argv) < 2 or argv[1].startswith("-"):
        raise UserError("the target is missing; give it first, such as h100x8 or v5p:2x2x1.")
    target = argv[1]
    config, _ = configs.from_command_line([argv[0], *argv[2:]])
    os.environ.update(ENVIRONMENT, JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1")      # before jax starts: no libraries of NVIDIA
    from experiments import checks
    from longctx import meshes, optim, train_step
    stages = checks.check_settings(config)
    mesh = meshes.make(config.mesh, devices_of(target))
    longest = max(stages, key=lambda stage: stage.seq_len)
    start = time.monotonic()
    lowered = train_step.lower_step(config, optim.learning_rate(config.optim, stages), longest, mesh,
                                    "cuda" if mesh.devices.flat[0].platform == "gpu" else "tpu")
    used = with_memories(lowered).compile().memory_analysis()
    fields = {"arguments": "argument_size_in_bytes", "temporaries": "temp_size_in_bytes",
              "host_arguments": "host_argument_size_in_bytes", "host_temporaries": "host_temp_size_in_bytes"}
    print(json.dumps({"target": target, "mesh": str(config.mesh), "seq_len": longest.seq_len,
                      **{name: round(getattr(used, field) / GIB, 3) for name, field in fields.items()},
                      "compile_s": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    configs.run(main)
