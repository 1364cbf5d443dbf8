"""Compiles one attention kernel for a TPU, in a process of its own: the compiler is told at start where to dump.

    python -m experiments.kernel_worker CHIP LENGTH '{"kernel": "longctx", "op": "forward"}'

Prints {"compile_s": seconds, "temp_mb": MiB of temporary memory} as its last line. With CHIP "here" the kernel is run
on the machine's own TPU, and the line holds {"seconds": of one call, "chip": its name}.
"""
import json
import sys
import time

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.kernel_cases import Case, documents
from pallas_kernels import tpu_chips
from pallas_kernels.masks import Tokens

_CALLS = 10


def compile_for(chip: str, length: int, case: Case) -> dict:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=tpu_chips.CHIPS[chip].topology).devices[:1]
    sharding = NamedSharding(Mesh(np.array(devices), ("chip",)), PartitionSpec())
    with tpu_chips.target(chip):
        function, types = case.call(length)
        types = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), types)
        start = time.perf_counter()
        program = jax.jit(function).trace(*types).lower(lowering_platforms=("tpu",)).compile()
    return {"compile_s": time.perf_counter() - start,
            "temp_mb": program.memory_analysis().temp_size_in_bytes / 2**20}


def run_here(length: int, case: Case) -> dict:
    function, types = case.call(length)
    rng = np.random.default_rng(0)
    made = jax.tree.map(lambda x: documents(case, length) if isinstance(x, Tokens)
                        else jax.numpy.asarray(rng.standard_normal(x.shape), x.dtype),
                        types, is_leaf=lambda x: isinstance(x, Tokens))
    function = jax.jit(function)
    jax.block_until_ready(function(*made))
    start = time.perf_counter()
    results = [function(*made) for _ in range(_CALLS)]
    jax.block_until_ready(results)
    return {"seconds": (time.perf_counter() - start) / _CALLS, "chip": tpu_chips.current()}


if __name__ == "__main__":
    where, length, case = sys.argv[1], int(sys.argv[2]), Case(**json.loads(sys.argv[3]))
    print(json.dumps(run_here(length, case) if where == "here" else compile_for(where, length, case)))
