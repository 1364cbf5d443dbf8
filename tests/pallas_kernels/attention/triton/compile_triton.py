"""Run by tests in its own process: compiles Triton kernels for a GPU, with none present.

    compile_triton.py CHIP attention DTYPE MASK HEAD_DIM         e.g. h100 attention bfloat16 "causal & segments" 128
    compile_triton.py CHIP decode DTYPE MASK HEAD_DIM T S N K
    compile_triton.py CHIP cross_entropy DTYPE D V

Prints, of each kernel, its name and the bytes of shared memory that it takes by the rule that sizes are chosen by.
"""

import sys

import jax

from experiments.bench.harness import gpu_decode, kernel_worker
from pallas_kernels import gpu_chips, masks
from pallas_kernels.attention.pair import Pair, RowStats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.triton import blocks as triton_blocks
from pallas_kernels.attention.triton import decode as split
from pallas_kernels.attention.triton import kernel as flash
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.cross_entropy.triton import kernel as head_loss
from pallas_kernels.testing import input_types

array = jax.ShapeDtypeStruct


def attention(dtype, mask, head_dim, B=1, T=2000, N=4, K=2):
    """Calls, each a function and its arguments' types; bytes of shared memory by kernel."""
    q, k, row = (
        array((B, T, *rest), of) for *rest, of in ((N, int(head_dim), dtype), (K, int(head_dim), dtype), (N, "float32"))
    )
    spec, x, initial = AttentionSpec(masks.parse(mask)), input_types(q, k), Pair(array(q.shape, "float32"), row)
    forward = lambda x, initial: flash.forward(x, spec, initial)
    backward = lambda x, stats: flash.backward(x, spec, stats)
    calls = (forward, x, None), (forward, x, initial), (backward, x, RowStats(q, row, row))
    expected = {name: triton_blocks.shared(name, triton_blocks.choose(name, q, 0), q) for name in triton_blocks.SIZES}
    return calls, {"resumed": expected["forward"], **expected}


def decode(dtype, mask, head_dim, T, S, N, K, B=2):
    """Calls, each a function and its arguments' types; bytes of shared memory by kernel."""
    q, k = (array((B, int(length), int(heads), int(head_dim)), dtype) for length, heads in ((T, N), (S, K)))
    spec, x = AttentionSpec(masks.parse(mask)), input_types(q, k)
    stored = x._replace(k=array((B, *k.shape[2:], k.shape[1]), dtype), v=array((B, k.shape[2], *k.shape[1::2]), dtype))
    forward = lambda x: split.forward(gpu_decode.as_tokens(x), spec)
    return [(forward, stored)], {"split_forward": split.shared(split.choose(x, 0), x)}


def cross_entropy(dtype, D, V, M=3000):
    """Calls, each a function and its arguments' types; bytes of shared memory by kernel."""
    D, V = int(D), int(V)
    x, head, targets, row = array((M, D), dtype), array((D, V), dtype), array((M,), "int32"), array((M,), "float32")
    forward = lambda x, head, targets: head_loss.forward(x, head, targets, CrossEntropySpec())
    backward = lambda x, head, targets, lse, pair: head_loss.backward(x, head, targets, CrossEntropySpec(), lse, pair)
    calls = (forward, x, head, targets), (backward, x, head, targets, row, (row, row))
    return calls, dict.fromkeys(("forward", "gradient"), head_loss.shared(head_loss.choose()))


def main(chip, what, *about):
    with gpu_chips.target(chip):
        calls, expected = {"attention": attention, "decode": decode, "cross_entropy": cross_entropy}[what](*about)
    for call in calls:
        memory = kernel_worker.compiled(chip, *call).memory_analysis()
        # keys and values are not copied from how a cache stores them
        assert what != "decode" or memory.temp_size_in_bytes < memory.argument_size_in_bytes / 4, memory
    for name, size in expected.items():
        print(name, size)


if __name__ == "__main__":
    main(*sys.argv[1:])
