"""Run by test_gpu_cudnn.py in its own process: compiles attention by cuDNN for GPUs that are not here.

    compile_cudnn.py CHIP DTYPE HEAD_DIM

Prints for one GPU, and for a ring of eight, how many calls of cuDNN the gradient of attention holds, of both ways.
"""

import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from longctx import meshes
from longctx.config import MeshConfig
from pallas_kernels import gpu_chips
from pallas_kernels.masks import Causal
from tests.longctx.context_parallel.cut import attend


def main(chip, dtype, head_dim, T=4096):
    def grad(q, k, v, dout, segments):
        f = lambda q, k, v: attend(q, k, v, segments=segments, mask=Causal(), layout="zigzag", kernel="cudnn")
        return jax.vjp(f, q, k, v)[1](dout)

    for shards in 1, 8:
        mesh = meshes.make(MeshConfig(context=shards), gpu_chips.devices(chip, f"1x1x{shards}"))
        array = lambda dtype, spec, *shape, mesh=mesh: jax.ShapeDtypeStruct(
            (1, T, *shape), dtype, sharding=NamedSharding(mesh, spec)
        )
        q, k = (array(dtype, meshes.HEADS, heads, head_dim) for heads in (8, 2))
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            traced = jax.jit(grad).trace(q, k, k, q, array(jnp.int32, meshes.TOKENS))
        text = traced.lower(lowering_platforms=("cuda",)).compile().as_text()
        print(shards, *(text.count(f'custom_call_target="__cudnn$fmhaSoftmax{way}"') for way in ("", "Backward")))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
