"""Run by test_compiled_for_tpu.py in its own process: compiles a cut attention for eight chips, and has none.

    compile_for_tpu.py TOPOLOGY STRATEGY LAYOUT         e.g. v5e:2x4 ring zigzag

Prints, for forward and forward with backward: Mosaic kernels and collectives in the program.
"""
import re
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from longctx import meshes
from longctx.config import MeshConfig
from longctx.context_parallel import api
from pallas_kernels import masks

COLLECTIVES = r" (collective-permute|all-to-all|all-gather|reduce-scatter)(?:-start)?\("


def main(topology, strategy, layout, S=16384, N=8, K=2, H=128):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = meshes.make(MeshConfig(context=8), devices)
    sharding = NamedSharding(mesh, meshes.HEADS)
    array = lambda heads: jax.ShapeDtypeStruct((1, S, heads, H), jnp.bfloat16, sharding=sharding)
    attend = lambda q, k, v: api.attend(q, k, v, mask=masks.Causal(), strategy=strategy, layout=layout, kernel="tpu")
    q, k = array(N), array(K)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        for name, call, arguments in (("forward", attend, (q, k, k)),
                                      ("both", lambda q, k, v, dout: jax.vjp(attend, q, k, v)[1](dout), (q, k, k, q))):
            text = jax.jit(call).trace(*arguments).lower(lowering_platforms=("tpu",)).compile().as_text()
            print(name, text.count('custom_call_target="tpu_custom_call"'), *sorted(set(re.findall(COLLECTIVES, text))))


if __name__ == "__main__":
    main(*sys.argv[1:])
