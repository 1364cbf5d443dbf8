"""Run by test_tpu_cross_entropy.py in its own process: compiles the kernels with the real TPU compiler, and no TPU.

    compile_cross_entropy_for_tpu.py CHIP M D V DTYPE         e.g. v5e 2048 4096 32000 bfloat16

Prints one line for each of forward and backward: Mosaic kernels in the compiled program, bytes of temporary memory.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pallas_kernels import tpu_chips
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.cross_entropy.tpu import kernel as tpu


def main(chip, M, D, V, dtype):
    topology = topologies.get_topology_desc(platform="tpu", topology_name=tpu_chips.CHIPS[chip].topology)
    sharding = NamedSharding(Mesh(np.array(topology.devices[:1]), ("chip",)), PartitionSpec())
    array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    x, head, targets, row = array(dtype, M, D), array(dtype, D, V), array(jnp.int32, M), array(jnp.float32, M)
    spec = CrossEntropySpec(soft_cap=30.0)
    calls = {
        "forward": (lambda x, head, targets: tpu.forward(x, head, targets, spec), (x, head, targets)),
        "backward": (
            lambda x, head, targets, lse, *pair: tpu.backward(x, head, targets, spec, lse, pair),
            (x, head, targets, row, row, row),
        ),
    }
    with tpu_chips.target(chip):
        for name, (call, arguments) in calls.items():
            program = jax.jit(call).trace(*arguments).lower(lowering_platforms=("tpu",)).compile()
            print(
                name,
                program.as_text().count('custom_call_target="tpu_custom_call"'),
                program.memory_analysis().temp_size_in_bytes,
            )


if __name__ == "__main__":
    chip, *shape, dtype = sys.argv[1:]
    main(chip, *map(int, shape), dtype)
