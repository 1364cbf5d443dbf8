"""Run by test_compiled_for_gpu.py in its own process: compiles a cut attention for eight GPUs, and has none.

    compile_for_gpu.py CHIP STRATEGY LAYOUT KERNEL         e.g. h100 ring zigzag cudnn

With the compiler's options of a training step. Prints a line for forward, and one for forward with backward: of the
bytes that leave each device by permutes, the share that does while the schedule has kernels or matmuls; and that share
of the hops of loops alone.
"""

import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from experiments.hlo.program import overlap, read
from longctx import meshes, training
from longctx.config import MeshConfig
from pallas_kernels import gpu_chips
from tests.longctx.context_parallel.compile_for_tpu import calls


def main(chip, strategy, layout, kernel, S=65536, N=8, K=2, H=128):
    mesh = meshes.make(MeshConfig(context=8), gpu_chips.devices(chip, "1x1x8"))
    sharding = NamedSharding(mesh, meshes.HEADS)
    q, k = (jax.ShapeDtypeStruct((1, S, heads, H), jnp.bfloat16, sharding=sharding) for heads in (N, K))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        for call, arguments in zip(calls(strategy, layout, kernel), ((q, k, k), (q, k, k, q)), strict=True):
            step = jax.jit(call, compiler_options=training.OPTIONS["gpu"])
            text = step.trace(*arguments).lower(lowering_platforms=("cuda",)).compile().as_text()
            hops = [c for c in read(text, mesh).collectives if c.kind == "collective-permute"]
            print(overlap(hops), overlap(c for c in hops if c.runs.times > 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
