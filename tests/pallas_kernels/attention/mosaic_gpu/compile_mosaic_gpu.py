"""Run by test_gpu_mosaic.py in its own process: compiles the kernels for a GPU that is not here.

compile_gpu_mosaic.py CHIP MASK DTYPE HEAD_DIM SOFT_CAP PARTIAL   e.g. h200 "causal & segments" bfloat16 64 0 True
"""

import sys

import jax
import jax.numpy as jnp

from experiments.bench.harness import kernel_worker
from pallas_kernels import masks
from pallas_kernels.attention.mosaic_gpu import kernel as mosaic_gpu
from pallas_kernels.attention.pair import RowStats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.testing import input_types


def main(chip, mask, dtype, head_dim, soft_cap, partial, B=2, T=1000, S=1100, N=8, K=2):
    spec = AttentionSpec(masks.parse(mask), soft_cap=soft_cap, partial=partial)
    array = jax.ShapeDtypeStruct
    q, k, row = array((B, T, N, head_dim), dtype), array((B, S, K, head_dim), dtype), array((B, T, N), jnp.float32)
    x, stats = input_types(q, k), RowStats(q, row, row)
    kernel_worker.compiled(chip, lambda x: mosaic_gpu.forward(x, spec), x)
    kernel_worker.compiled(chip, lambda x, stats: mosaic_gpu.backward(x, spec, stats), x, stats)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6] == "True")
