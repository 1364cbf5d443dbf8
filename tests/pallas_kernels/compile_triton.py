"""Run by tests in its own process: compiles the Triton kernels of attention for a GPU, with none present.

    compile_triton.py CHIP MASK DTYPE HEAD_SIZE         e.g. h100 "causal & segments" bfloat16 128

Prints a line of JSON for each kernel of forward, forward on from a result, and backward: its name; "spills", bytes that
ptxas stores for want of registers; "wgmma" and "mma", matrix instructions of either kind; "shared", bytes of shared
memory that Triton reports, and "expected", what the rule of triton_blocks says.
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
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pallas_kernels import gpu_chips, masks
from pallas_kernels.attention import jax_triton, triton_blocks
from pallas_kernels.attention.spec import AttentionSpec, Rows
from pallas_kernels.masks import Tokens

PTXAS = f"{importlib.util.find_spec('triton').submodule_search_locations[0]}/backends/nvidia/bin/ptxas-blackwell"


def main(chip, mask, dtype, head_size, T=2000, N=4, K=2):
    dump = os.environ["JAX_TRITON_DUMP_DIR"]
    sharding = NamedSharding(Mesh(np.array(gpu_chips.devices(chip)), ("chip",)), PartitionSpec())
    array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    q, k, row = array(dtype, 1, T, N, head_size), array(dtype, 1, T, K, head_size), array(jnp.float32, 1, T, N)
    tokens = Tokens(array(jnp.int32, 1, T), array(jnp.int32, 1, T))
    spec = AttentionSpec(masks.parse(mask))

    def forward(q, k, v, tokens, before=None):
        return jax_triton.forward(q, k, v, (tokens, tokens), spec, None, before)

    def backward(q, k, v, tokens, rows):
        return jax_triton.backward(q, k, v, (tokens, tokens), spec, rows)

    before, rows = (array(jnp.float32, *q.shape), row), Rows(q, row, row)
    for f, arguments in ((forward, ()), (forward, (before,)), (backward, (rows,))):
        with gpu_chips.target(chip):
            jax.jit(f).trace(q, k, k, tokens, *arguments).lower(lowering_platforms=("cuda",)).compile()
            expected = {name: triton_blocks.shared(name, triton_blocks.choose(name, q, 0), q)
                        for name in triton_blocks.SIZES}
    for path in sorted(glob.glob(f"{dump}/*/*.ptx")):
        name = os.path.basename(path)[:-len(".ptx")]
        print(json.dumps({"kernel": name, "expected": expected.get(name, expected["forward"]), **compiled(path)}))


def compiled(path):
    """What ptxas and Triton say of one kernel."""
    with open(path) as ptx, open(path[:-len(".ptx")] + ".compile_info") as info:
        text, shared = ptx.read(), int(info.read().split()[-1])
    arch = re.search(r"\.target (\w+)", text)[1]
    said = subprocess.run([PTXAS, "-v", f"-arch={arch}", path, "-o", os.devnull], capture_output=True, text=True,
                          check=True).stderr
    return {"spills": sum(map(int, re.findall(r"(\d+) bytes spill stores", said))), "shared": shared,
            "wgmma": text.count("wgmma.mma_async"), "mma": text.count("mma.sync")}


if __name__ == "__main__":
    chip, mask, dtype, head_size = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_TRITON_DUMP_DIR"] = folder                              # before jax_triton is imported
        main(chip, mask, dtype, int(head_size))
