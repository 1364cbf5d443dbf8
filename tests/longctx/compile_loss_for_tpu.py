"""Run by test_loss.py in its own process: compiles the loss and its gradients for four chips, and has none.

    compile_loss_for_tpu.py TOPOLOGY         e.g. v5e:2x2

Prints how many Mosaic kernels the compiled program holds. The shard_map is checked here, as in training.
"""

import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from longctx import loss, meshes
from longctx.config import MeshConfig
from pallas_kernels.cross_entropy import api


def main(topology, T=8192, D=512, V=32000):
    api.PREFERENCE["cpu"] = ("tpu",)  # this machine's own is a CPU
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = meshes.make(MeshConfig(context=2, tensor=2), devices)
    array = lambda dtype, spec, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
    arguments = (
        array(jnp.bfloat16, meshes.HIDDEN, 1, T, D),
        array(jnp.bfloat16, meshes.HEAD, D, V),
        array(jnp.int32, meshes.TOKENS, 1, T),
    )
    total = jax.value_and_grad(lambda x, head, targets: loss.token_loss(x, head, targets).sum(), (0, 1))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = jax.jit(total).trace(*arguments).lower(lowering_platforms=("tpu",)).compile()
    print("kernels", program.as_text().count('custom_call_target="tpu_custom_call"'))


if __name__ == "__main__":
    main(*sys.argv[1:])
