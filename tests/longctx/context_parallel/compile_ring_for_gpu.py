"""Run by tests in its own process: compiles a ring of eight GPUs, forward and backward, with none present.

    compile_ring_for_gpu.py KERNEL CHIP LAYOUT         e.g. jax_triton h200 zigzag

Prints how many attention kernels a device runs, and the share of the permuted bytes that travel while one runs.
"""
import sys

import jax
from jax.sharding import NamedSharding

from experiments.hlo import program
from longctx import meshes
from longctx.config import MeshConfig
from longctx.context_parallel import api
from pallas_kernels import gpu_chips


def main(kernel, chip, layout, T=16384, N=8, K=2, H=128):
    mesh = meshes.make(MeshConfig(context=8), gpu_chips.devices(chip, "1x1x8"))
    array = lambda dtype, spec, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
    q, k = array("bfloat16", meshes.HEADS, 1, T, N, H), array("bfloat16", meshes.HEADS, 1, T, K, H)
    tokens = array("int32", meshes.TOKENS, 1, T)

    def step(q, k, v, positions, segments, dout):
        attend = lambda q, k, v: api.attend(q, k, v, positions=positions, segments=segments, strategy="ring",
                                            kernel=kernel, layout=layout)
        return jax.vjp(attend, q, k, v)[1](dout)

    with jax.set_mesh(mesh):
        lowered = jax.jit(step).trace(q, k, k, tokens, tokens, q).lower(lowering_platforms=("cuda",))
    compiled = program.read(lowered.compile().as_text(), mesh)
    permutes = [c for c in compiled.collectives if c.kind == "collective-permute"]
    print(sum(kernel.runs.times for kernel in compiled.kernels), round(program.overlap(permutes), 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
