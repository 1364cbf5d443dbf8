"""Run by test_decode.py in its own process: compiles attention over pages with the real TPU compiler, and no TPU.

    compile_paged.py CHIP QUERY_HEADS KEY_HEADS HEAD_DIM PAGE DTYPE         e.g. v5e 32 8 128 256 bfloat16

Prints how many Mosaic kernels the compiled program holds, and whether its temporary memory is less than a tenth of the
pool: nothing copies that.
"""

import sys

import jax
import jax.numpy as jnp

from experiments.bench.harness.kernel_worker import compiled
from pallas_kernels import tpu_chips
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.tpu import decode
from pallas_kernels.masks import Causal, TokenInfo

ROWS, SLOTS, POOL = 4, 2**15, 2**17  # slots of a row, and of the pool


def main(chip, N, K, H, page, dtype):
    array, ids = jax.ShapeDtypeStruct, lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
    P = POOL // page
    info, q_info = TokenInfo(ids(P, page), ids(P, page)), TokenInfo(ids(ROWS, 1), ids(ROWS, 1))
    k, v = array((P, K, H, page), dtype), array((P, K, page, H), dtype)
    arrays = array((ROWS, 1, N, H), dtype), q_info, k, v, info, ids(ROWS, SLOTS // page), ids(ROWS)

    def call(q, q_info, k, v, info, table, lengths):
        return decode.paged(q, q_info, decode.Pages(k, v, info), table, AttentionSpec(Causal()), lengths)

    with tpu_chips.target(chip):
        program = compiled(chip, call, *arrays)
    pool = 2 * POOL * K * H * jnp.dtype(dtype).itemsize
    print(program.as_text().count('custom_call_target="tpu_custom_call"'))
    print(program.memory_analysis().temp_size_in_bytes < pool / 10)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6])
