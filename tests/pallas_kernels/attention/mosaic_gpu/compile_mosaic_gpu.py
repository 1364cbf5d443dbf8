"""Run by test_gpu_mosaic.py in its own process: compiles the kernels for a GPU that is not here.

compile_gpu_mosaic.py CHIP MASK DTYPE HEAD_DIM SOFT_CAP PARTIAL   e.g. h200 "causal & segments" bfloat16 64 0 True
"""

import sys

import jax
import jax.numpy as jnp

from experiments.bench.harness import kernel_worker
from pallas_kernels import masks
from pallas_kernels.attention.mosaic_gpu import kernel as mosaic_gpu
from pallas_kernels.attention.spec import AttentionSpec, Rows
from pallas_kernels.masks import Tokens


def main(chip, mask, dtype, head_dim, soft_cap, partial, B=2, T=1000, S=1100, N=8, K=2):
    spec = AttentionSpec(masks.parse(mask), soft_cap=soft_cap, partial=partial)
    array = jax.ShapeDtypeStruct
    q, k, row = array((B, T, N, head_dim), dtype), array((B, S, K, head_dim), dtype), array((B, T, N), jnp.float32)
    tokens = tuple(Tokens(*[array((B, length), jnp.int32)] * 2) for length in (T, S))
    kernel_worker.compiled(chip, lambda *call: mosaic_gpu.forward(*call, spec), q, k, k, tokens)
    kernel_worker.compiled(
        chip, lambda *call: mosaic_gpu.backward(*call[:4], spec, call[4]), q, k, k, tokens, Rows(q, row, row)
    )


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6] == "True")
