"""The share of attention on parts of a row, by models whose attention is known."""

import jax
import numpy as np
import pytest

from longctx import meshes
from longctx.config import AttentionConfig, Config, LayerConfig, MeshConfig, ModelConfig
from longctx.evals import batches
from longctx.evals.batches import Piece
from longctx.evals.predictor import predictor
from longctx.model import functional
from pallas_kernels.testing import relative_error, tolerance

T = 24


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    pieces = [
        Piece(*rng.integers(0, 60, (2, n)).astype(np.int32), np.array(asked)) for n, asked in ((T, [7, 20]), (9, [8]))
    ]
    return batches.batch([[piece] for piece in pieces], T, 0)


def model_of(mesh_config: MeshConfig, layout="contiguous", even=False):
    kinds = (LayerConfig(), LayerConfig(mask="causal & window(6)"))
    sizes = dict(vocab_size=64, d_model=32, heads=4, kv_heads=2, head_dim=8, mlp_dim=32, layers=3, dtype="float32")
    attention = AttentionConfig(layout=layout, strategy="ring" if mesh_config.context > 1 else "local")
    config = Config(model=ModelConfig(**sizes, pattern=kinds), attention=attention, mesh=mesh_config)
    mesh = meshes.make(mesh_config)
    with jax.set_mesh(mesh):
        params = functional.init(config.model, config.attention, jax.random.key(0))
        if even:
            queries = lambda path, x: x * 0 if "wq" in jax.tree_util.keystr(path) else x
            params = jax.tree_util.tree_map_with_path(queries, params)
    return predictor(config, mesh, params, config.model.rope)


def test_even_attention_falls_on_parts_by_their_tokens(batch):
    """Queries of zero see all tokens alike: two layers all before, one the last six. Twelve parts are more than a
    head's values, and the tokens of the last are of none."""
    parts = np.where(np.arange(T) < 22, np.arange(T) // 2, -1) + np.zeros((2, 1), int)
    found = model_of(MeshConfig(), even=True).attended(batch, parts, 12)
    for row, asked in enumerate(([7, 20], [8])):
        want = np.zeros(12)
        for at in asked:
            for reach, layers in ((T, 2), (6, 1)):
                seen = np.arange(max(0, at - reach + 1), at + 1)
                want += layers / 3 * np.bincount(parts[row, seen], minlength=12) / len(seen) / len(asked)
        assert relative_error(found[row], want) < tolerance(np.float32, T)


def test_shares_are_the_same_on_any_mesh_and_in_any_layout(batch):
    parts = np.arange(T) // 4 + np.zeros((2, 1), int)
    alone = model_of(MeshConfig()).attended(batch, parts, 6)
    assert relative_error(alone.sum(axis=1), np.ones(2)) < tolerance(np.float32, T)
    sharded = model_of(MeshConfig(context=4, tensor=2), "zigzag").attended(batch, parts, 6)
    assert relative_error(sharded, alone) < tolerance(np.float32, 32 * T)
