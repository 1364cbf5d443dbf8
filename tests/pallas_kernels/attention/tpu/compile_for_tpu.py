"""Run by test_tpu_attention.py in its own process: compiles the kernels with the real TPU compiler, and no TPU.

    compile_for_tpu.py TOPOLOGY MASK DTYPE HEAD_DIM BLOCK         e.g. v5e:2x2 "causal & segments" bfloat16 128 512

BLOCK: tokens of a block; 0 is the tuned size, whose programs take a minute or two each.
Prints one line for each of forward, forward on from a pair, and backward: how many Mosaic kernels the compiled
program holds.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pallas_kernels import masks, tpu_chips
from pallas_kernels.attention.pair import Inputs, Pair, RowStats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.tpu import kernel as tpu
from pallas_kernels.masks import TokenInfo


def main(topology, mask, dtype, head_dim, block, T=2048, N=4, K=2):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[:1]
    sharding = NamedSharding(Mesh(np.array(devices), ("chip",)), PartitionSpec())
    array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    q, k, row = array(dtype, 1, T, N, head_dim), array(dtype, 1, T, K, head_dim), array(jnp.float32, 1, T, N)
    info = TokenInfo(array(jnp.int32, 1, T), array(jnp.int32, 1, T))
    spec = AttentionSpec(masks.parse(mask), soft_cap=30.0, block=block)
    partial, initial = dataclasses.replace(spec, partial=True), Pair(array(jnp.float32, *q.shape), row)
    x = Inputs(q, k, k, info, info)
    chip = next(name for name, chip in tpu_chips.CHIPS.items() if chip.topology == topology)
    calls = {
        "forward": (lambda x: tpu.forward(x, spec), (x,)),
        "resumed": (lambda x, initial: tpu.forward(x, partial, initial), (x, initial)),
        "backward": (lambda x, stats: tpu.backward(x, spec, stats), (x, RowStats(q, row, row))),
    }
    for name, (call, arguments) in calls.items():
        with tpu_chips.target(chip):
            traced = jax.jit(call).trace(*arguments)
        program = traced.lower(lowering_platforms=("tpu",)).compile()
        print(name, program.as_text().count('custom_call_target="tpu_custom_call"'))


if __name__ == "__main__":
    topology, mask, dtype, head_dim, block = sys.argv[1:]
    main(topology, mask, dtype, int(head_dim), int(block))
