"""Run by test_compiled_for_tpu.py in its own process: compiles a cut attention for eight chips, and has none.

    compile_for_tpu.py TOPOLOGY STRATEGY LAYOUT         e.g. v5e:2x4 ring zigzag

Prints a line for forward, and one for forward with backward: how many Mosaic kernels the program has, the bytes that
leave each device by its collectives, those of the jaxpr, and kinds of collectives. Loops of unknown length run once.
"""

import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from experiments.hlo.program import read, total
from longctx import meshes
from longctx.config import MeshConfig
from pallas_kernels import masks
from tests.longctx.context_parallel.cut import attend
from tests.longctx.context_parallel.traffic import sent_bytes


def main(topology, strategy, layout, S=4096, N=8, K=2, H=128):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = meshes.make(MeshConfig(context=8), devices)
    sharding = NamedSharding(mesh, meshes.HEADS)
    array = lambda heads: jax.ShapeDtypeStruct((1, S, heads, H), jnp.bfloat16, sharding=sharding)
    q, k = array(N), array(K)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        plain, fast = calls(strategy, layout, "chunked"), calls(strategy, layout, "tpu")
        for expected, call, arguments in zip(plain, fast, ((q, k, k), (q, k, k, q)), strict=True):
            text = jax.jit(call).trace(*arguments).lower(lowering_platforms=("tpu",)).compile().as_text()
            program = read(text, mesh)
            print(
                len(program.kernels),
                total(program.collectives, "bytes"),
                sent_bytes(expected, *arguments, rounds=1),
                *sorted({c.kind for c in program.collectives}),
            )


def calls(strategy, layout, kernel):
    """Forward, and forward with backward."""
    how = dict(mask=masks.Causal(), strategy=strategy, layout=layout, kernel=kernel)
    forward = lambda q, k, v: attend(q, k, v, **how)
    return forward, lambda q, k, v, dout: jax.vjp(forward, q, k, v)[1](dout)


if __name__ == "__main__":
    main(*sys.argv[1:])
