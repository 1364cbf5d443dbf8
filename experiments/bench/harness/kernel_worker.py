"""Compiles one attention kernel for a TPU or GPU, in a process of its own: compilers are told at start where to dump.

    python -m experiments.bench.harness.kernel_worker CHIP LENGTH '{"kernel": "longctx", "op": "forward"}'

Prints {"compile_s": seconds, "temp_mb": MiB of temporary memory} as its last line. With CHIP "here" the kernel is run
on the machine's own TPU or GPU, and the line holds {"seconds": of one call, "chip": its name}.
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
    """The program of `function` for one device called `chip`, in either CHIPS, that is not here.

    types: of its arguments, trees of ShapeDtypeStruct.
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
    with (gpu_chips if chip in gpu_chips.CHIPS else tpu_chips).target(chip):
        function, types = case.call(length)
    start = time.perf_counter()
    program = compiled(chip, function, *types)
    return {"compile_s": time.perf_counter() - start, "temp_mb": program.memory_analysis().temp_size_in_bytes / 2**20}


def run_here(length: int, case: Case) -> dict:
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


def ask(where: str, length: int, case: Case, environment: dict) -> dict:
    """What the worker says; it is stopped after LIMIT seconds. Raises RuntimeError with its last words if it fails."""
    command = [sys.executable, "-m", __spec__.name, where, str(length), json.dumps(vars(case))]
    environment = {**os.environ, "JAX_TRACEBACK_FILTERING": "off", **environment}  # or its advice comes last
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(f"{case.kernel} {case.op} on {where}: " + (lines[-1][:300] if lines else "no message"))
    return json.loads(done.stdout.splitlines()[-1])


def measured(length: int, case: Case, chip: str, platform: str) -> float | None:
    """TFLOP/s on this machine's own device; None where that is not `chip`."""
    said = ask("here", length, case, {"JAX_PLATFORMS": platform})
    return case.flops(length) / said["seconds"] / 1e12 if said["chip"] == chip else None


if __name__ == "__main__":
    where, length, case = sys.argv[1], int(sys.argv[2]), Case(**json.loads(sys.argv[3]))
    print(json.dumps(run_here(length, case) if where == "here" else compile_for(where, length, case)))
