"""Run by test_compiled_step.py in its own process: compiles a step of generation with the TPU compiler, and no TPU.

    compile_step.py CHIP KERNEL HEAD_DIM         e.g. v5e auto 128

Prints how many Mosaic kernels the compiled program holds, the bytes of its temporary memory, and those of the keys of
one layer.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from longctx import meshes
from longctx.config import AttentionConfig, MeshConfig, ModelConfig
from longctx.generation import cache as caching
from longctx.generation import decode
from longctx.model import functional
from pallas_kernels import tpu_chips

LONGEST = 8192
MODEL = ModelConfig(vocab_size=1024, layers=4, d_model=1024, mlp_dim=2048, heads=32, kv_heads=8, param_dtype="bfloat16")


def main(chip, kernel, head_dim):
    config, attention = dataclasses.replace(MODEL, head_dim=head_dim), AttentionConfig(kernel=kernel)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=tpu_chips.CHIPS[chip].topology).devices
    mesh = meshes.make(MeshConfig(), devices[:1])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        graph = functional.graph(config, attention)
        shapes = jax.eval_shape(
            lambda: (functional.init(config, attention, jax.random.key(0)), caching.empty(config, 1, LONGEST))
        )
        placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec))
        params, cache = jax.tree.map(placed, shapes)
        token = jax.ShapeDtypeStruct((1,), jnp.int32, sharding=NamedSharding(mesh, meshes.REPLICATED))
        traced = decode.read_one.trace(graph, None, LONGEST, params, cache, token, token)
        program = traced.lower(lowering_platforms=("tpu",)).compile()
    print(program.as_text().count('custom_call_target="tpu_custom_call"'))
    print(program.memory_analysis().temp_size_in_bytes)
    print(2 * LONGEST * config.kv_heads * head_dim * 2)


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]))
