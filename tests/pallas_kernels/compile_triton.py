"""Run by tests in its own process: compiles Triton kernels for a GPU, with none present.

    compile_triton.py attention CHIP DTYPE MASK HEAD_SIZE         e.g. h100 bfloat16 "causal & segments" 128
    compile_triton.py cross_entropy CHIP DTYPE D V

Prints a line of JSON for each kernel: its name; "spills", bytes that ptxas stores for want of registers; "wgmma" and
"mma", matrix instructions of either kind; "shared", bytes of shared memory that Triton reports, and "expected", what
the rule says by which sizes are chosen.
"""
import glob
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pallas_kernels.attention.jax_triton as flash
import pallas_kernels.cross_entropy.jax_triton as head_loss
from pallas_kernels import gpu_chips, masks
from pallas_kernels.attention import triton_blocks
from pallas_kernels.attention.spec import AttentionSpec, Rows
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.masks import Tokens

PTXAS = f"{importlib.util.find_spec('triton').submodule_search_locations[0]}/backends/nvidia/bin/ptxas-blackwell"


def attention(array, dtype, mask, head_size, T=2000, N=4, K=2):
    """Calls, each a function and its arguments; bytes of shared memory by kernel."""
    q, k, row = (array(dtype, 1, T, N, int(head_size)), array(dtype, 1, T, K, int(head_size)),
                 array("float32", 1, T, N))
    tokens, spec = Tokens(array("int32", 1, T), array("int32", 1, T)), AttentionSpec(masks.parse(mask))
    forward = lambda q, k, v, tokens, before: flash.forward(q, k, v, (tokens, tokens), spec, None, before)
    backward = lambda q, k, v, tokens, rows: flash.backward(q, k, v, (tokens, tokens), spec, rows)
    operands, before = (q, k, k, tokens), (array("float32", *q.shape), row)
    calls = (forward, (*operands, None)), (forward, (*operands, before)), (backward, (*operands, Rows(q, row, row)))
    expected = {name: triton_blocks.shared(name, triton_blocks.choose(name, q, 0), q) for name in triton_blocks.SIZES}
    return calls, {"onward": expected["forward"], **expected}


def cross_entropy(array, dtype, D, V, M=3000):
    """The same."""
    D, V = int(D), int(V)
    x, head, targets, row = array(dtype, M, D), array(dtype, D, V), array("int32", M), array("float32", M)
    forward = lambda x, head, targets: head_loss.forward(x, head, targets, CrossEntropySpec())
    backward = lambda x, head, targets, lse, pair: head_loss.backward(x, head, targets, CrossEntropySpec(), lse, pair)
    calls = (forward, (x, head, targets)), (backward, (x, head, targets, row, (row, row)))
    return calls, dict.fromkeys(("forward", "gradient"), head_loss.shared(head_loss.choose()))


def main(what, chip, dtype, *sizes):
    with tempfile.TemporaryDirectory() as dump, gpu_chips.target(chip):
        os.environ["JAX_TRITON_DUMP_DIR"] = dump                                # read when jax_triton is imported
        sharding = NamedSharding(Mesh(np.array(gpu_chips.devices(chip)), ("chip",)), PartitionSpec())
        array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        calls, expected = {"attention": attention, "cross_entropy": cross_entropy}[what](array, dtype, *sizes)
        for f, arguments in calls:
            jax.jit(f).trace(*arguments).lower(lowering_platforms=("cuda",)).compile()
        for path in glob.glob(f"{dump}/*/*.ptx"):
            kernel = os.path.basename(path).removesuffix(".ptx")
            print(json.dumps({"kernel": kernel, "expected": expected[kernel], **compiled(path)}))


def compiled(path):
    """What ptxas and Triton say of one kernel."""
    with open(path) as ptx, open(path.removesuffix(".ptx") + ".compile_info") as info:
        text, shared = ptx.read(), int(info.read().split()[-1])
    arch = re.search(r"\.target (\w+)", text)[1]
    said = subprocess.run([PTXAS, "-v", f"-arch={arch}", path, "-o", os.devnull], capture_output=True, text=True,
                          check=True).stderr
    return {"spills": sum(map(int, re.findall(r"(\d+) bytes spill stores", said))), "shared": shared,
            "wgmma": text.count("wgmma.mma_async"), "mma": text.count("mma.sync")}


if __name__ == "__main__":
    main(*sys.argv[1:])
