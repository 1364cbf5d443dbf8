"""Position methods inside the decoder: cut over a mesh they give the losses and gradients of one device."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longctx import layouts, loss, meshes
from longctx.config import AttentionConfig, MeshConfig, ModelConfig, RopeConfig
from longctx.model import functional
from tests.helpers import assert_close, packed, slow

TINY = ModelConfig(
    vocab_size=32, layers=1, d_model=16, mlp_dim=32, heads=2, kv_heads=1, head_dim=8, dtype="float32", remat="none"
)
ROPES = {
    "dynamic": RopeConfig(scaling="dynamic", factor=2.0, original_length=8, pairing="interleaved", rotary_fraction=0.5),
    "clex": RopeConfig(scaling="clex", factor=4.0, original_length=8),
}


def loss_and_grads(rope: RopeConfig, config: MeshConfig):
    """Every row has its own stretch. What CLEX learns is moved away from 0, where `clex_up` has no gradient."""
    mesh, model, attention = meshes.make(config), dataclasses.replace(TINY, rope=rope), AttentionConfig()
    where, rng = packed(0, 4, 32, mean=20), np.random.default_rng(0)
    tokens, targets = rng.integers(0, 32, (2, 4, 32)).astype(np.int32)
    data = {
        "tokens": tokens,
        "targets": targets,
        "weights": np.asarray(where.segments > 0, np.float32),
        "positions": np.asarray(where.positions),
        "segments": np.asarray(where.segments),
    }
    placed = meshes.put_batch(layouts.lay_out(data, "zigzag", config.context), mesh)
    rows = NamedSharding(mesh, PartitionSpec(meshes.BATCH))
    placed["stretch"] = jax.device_put(np.asarray([1, 2, 4, 3], np.float32), rows)
    with jax.set_mesh(mesh):
        params = jax.jit(lambda: functional.init(model, attention, jax.random.key(0)))()
        if "clex" in params:
            params["clex"]["clex_down"] = params["clex"]["clex_down"] + 0.05
        graph = functional.graph(model, attention)
        mean = lambda p: loss.mean_over_tokens(functional.nll(graph, p, placed), placed["weights"])
        return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(mean))(params))


@pytest.mark.parametrize("name", slow("clex", "dynamic"))
def test_cut_over_a_mesh(name):
    want = loss_and_grads(ROPES[name], MeshConfig())
    assert_close(loss_and_grads(ROPES[name], MeshConfig(data=2, context=2)), want, "float32", 1000)
    assert all(np.abs(grad).max() > 0 for grad in jax.tree.leaves(want[1]))
