"""Compiles one attention kernel for a TPU or GPU in a process of its own, since compilers learn at start where to dump.

    python -m experiments.bench.harness.kernel_worker CHIP LENGTH '{"kernel": "longctx", "op": "forward"}'

Prints {"compile_s": seconds, "temp_mb": MiB of temporary memory} as its last line. With CHIP "here" it runs the kernel
on the machine's own TPU or GPU, and the line is {"seconds": of one call, "chip": name of the device}.
"""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.bench.harness.kernel_cases import Case, documents
from experiments.bench.harness.sides import ROOT
from pallas_kernels import gpu_chips, tpu_chips
from pallas_kernels.masks import TokenInfo

LIMIT = 900  # seconds for one compilation
_CALLS = 10


def compiled(chip: str, function, *types):
    """`function` compiled for one device of a kind that this machine need not have.

    Args:
      chip: a name in gpu_chips.CHIPS or tpu_chips.CHIPS.
      types: of the arguments, trees of ShapeDtypeStruct.
    """
    if chip in gpu_chips.CHIPS:
        platform, devices = "cuda", gpu_chips.devices(chip)
    else:
        platform, name = "tpu", tpu_chips.CHIPS[chip].topology
        devices = topologies.get_topology_desc(platform=platform, topology_name=name).devices
    mesh = Mesh(np.array(devices[:1]), ("chip",))
    sharding = NamedSharding(mesh, PartitionSpec())
    types = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), types)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).trace(*types).lower(lowering_platforms=(platform,)).compile()


def compile_for(chip: str, length: int, case: Case) -> dict:
    """The worker's reply after compiling a case for a chip that this machine need not have."""
    with (gpu_chips if chip in gpu_chips.CHIPS else tpu_chips).target(chip):
        function, types = case.call(length)
    start = time.perf_counter()
    program = compiled(chip, function, *types)
    return {"compile_s": time.perf_counter() - start, "temp_mb": program.memory_analysis().temp_size_in_bytes / 2**20}


def run_here(length: int, case: Case) -> dict:
    """The worker's reply after running a case on this machine's own device."""
    function, types = case.call(length)
    rng = np.random.default_rng(0)
    made = jax.tree.map(
        lambda x: (
            documents(case, length)
            if isinstance(x, TokenInfo)
            else jax.numpy.asarray(rng.standard_normal(x.shape), x.dtype)
        ),
        types,
        is_leaf=lambda x: isinstance(x, TokenInfo),
    )
    function = jax.jit(function)
    jax.block_until_ready(function(*made))
    start = time.perf_counter()
    results = [function(*made) for _ in range(_CALLS)]
    jax.block_until_ready(results)
    kind = jax.devices()[0].device_kind
    chip = next((name for name, chip in (tpu_chips.CHIPS | gpu_chips.CHIPS).items() if chip.kind == kind), kind)
    return {"seconds": (time.perf_counter() - start) / _CALLS, "chip": chip}


def ask(chip: str, length: int, case: Case, environment: dict) -> dict:
    """The worker's reply, see this module; chip may be "here".

    Raises RuntimeError with the last line of the worker's stderr if it fails, and TimeoutExpired after LIMIT seconds.
    """
    command = [sys.executable, "-m", __spec__.name, chip, str(length), json.dumps(vars(case))]
    environment = {**os.environ, "JAX_TRACEBACK_FILTERING": "off", **environment}  # or its advice comes last
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(f"{case.kernel} {case.op} on {chip}: " + (lines[-1][:300] if lines else "no message"))
    return json.loads(done.stdout.splitlines()[-1])


def measured(length: int, case: Case, chip: str, platform: str) -> float | None:
    """TFLOP/s on this machine's own device; None where the device is not a `chip`."""
    reply = ask("here", length, case, {"JAX_PLATFORMS": platform})
    return case.flops(length) / reply["seconds"] / 1e12 if reply["chip"] == chip else None


if __name__ == "__main__":
    chip, length, case = sys.argv[1], int(sys.argv[2]), Case(**json.loads(sys.argv[3]))
    print(json.dumps(run_here(length, case) if chip == "here" else compile_for(chip, length, case)))
