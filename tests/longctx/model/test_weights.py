"""What weights state where they are made: their PartitionSpec and whether they decay; and who finds it again."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from longctx import meshes, optim
from longctx.config import AttentionConfig, LayerConfig, MeshConfig, OptimConfig, RopeConfig
from longctx.model import functional
from longctx.model.linear import product
from tests.helpers import assert_close
from tests.longctx.model.test_transformer import TINY

MODELS = {
    "plain": TINY,
    "biases": dataclasses.replace(
        TINY,
        feed_forward="plain",
        mlp_bias=True,
        qkv_bias=True,
        out_bias=True,
        learned_sinks=True,
        qk_norm="rms",
        norm="layer_bias",
        tied_head=True,
    ),
    "gated": dataclasses.replace(TINY, mlp_bias=True, block="sandwich"),
    "mixtures": dataclasses.replace(
        TINY,
        pattern=(LayerConfig(feed_forward="gpt_oss"), LayerConfig(feed_forward="llama4")),
        mlp_bias=True,
        experts=4,
        experts_per_token=2,
        expert_mlp_dim=16,
    ),
    "learned": dataclasses.replace(
        TINY,
        pattern=(LayerConfig(), LayerConfig(position="t5")),
        rope=RopeConfig(scaling="clex", factor=4.0, original_length=8),
    ),
}
UP, DOWN = P("fsdp", "tensor"), P("tensor", "fsdp")
SPECS = {
    "table": DOWN,
    "head": UP,
    **dict.fromkeys(("wq", "wk", "wv"), P("fsdp", "tensor", None)),
    "wo": P("tensor", None, "fsdp"),
    **dict.fromkeys(("bq", "bk", "bv", "bias_table"), P("tensor", None)),
    "bo": P(None),
    "sinks": P("tensor"),
    "gate": UP,
    "up": UP,
    "down": DOWN,
    **dict.fromkeys(("gate_bias", "up_bias"), P("tensor")),
    **dict.fromkeys(("down_bias", "router_bias", "scale", "bias"), P(None)),
    "router": P("fsdp", None),
    **dict.fromkeys(("expert_gate", "expert_up"), P(None, "fsdp", "tensor")),
    "expert_down": P(None, "tensor", "fsdp"),
    **dict.fromkeys(("expert_gate_bias", "expert_up_bias"), P(None, "tensor")),
    **dict.fromkeys(("expert_down_bias", "clex_up", "clex_down"), P(None, None)),
}
EXPERTS = {"expert_gate", "expert_up", "expert_down"}
DECAYED = EXPERTS | {"table", "head", "wq", "wk", "wv", "wo", "gate", "up", "down", "router", "bias_table"}
DECAYED |= {"clex_up", "clex_down"}


def described(model, **axes):
    """(parameters as shapes, their WeightInfo) of a model, both trees, on a mesh of these axes."""
    mesh = meshes.make(MeshConfig(**axes))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        params = jax.eval_shape(lambda: functional.init(model, AttentionConfig(), jax.random.key(0)))
        return params, functional.weight_info(functional.graph(model, AttentionConfig()), params)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_states_its_spec_and_whether_it_decays(name):
    params, infos = described(MODELS[name])
    assert jax.tree.structure(infos) == jax.tree.structure(params)
    for path, info in jax.tree_util.tree_leaves_with_path(infos):
        assert (info.spec, info.decay) == (SPECS[path[-1].key], path[-1].key in DECAYED), path
        assert info.active == ((2, 4) if path[-1].key in EXPERTS else (1, 1))


def test_these_models_have_all_weights_there_are():
    paths = [jax.tree_util.tree_leaves_with_path(described(model)[0]) for model in MODELS.values()]
    assert {path[-1].key for leaves in paths for path, _ in leaves} == set(SPECS)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_born_in_their_shardings(name):
    """Along `tensor`, and in shares along fsdp and context together; a stack of layers is not cut."""
    params, _ = described(MODELS[name], fsdp=2, context=2, tensor=2)
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        spec = SPECS[path[-1].key]
        share = lambda axis: meshes.SHARES if axis == "fsdp" else axis
        assert x.sharding.spec == P(*(None,) * (path[0].key == "blocks"), *map(share, spec)), path
        whole = x.shape[-len(spec) :] if path[0].key == "blocks" else x.shape
        count = math.prod(whole) // math.prod(x.sharding.shard_shape(x.shape)[-len(spec) :])
        assert count == math.prod({"fsdp": 4, "tensor": 2, None: 1}[axis] for axis in spec), path


def test_where_a_weight_does_not_divide_by_all_shares_fsdp_alone_cuts_it():
    with jax.sharding.use_abstract_mesh(meshes.make(MeshConfig(fsdp=2, context=4)).abstract_mesh):
        assert meshes.stored_spec(DOWN, (3, 16)) == P("tensor", meshes.SHARES)
        assert meshes.stored_spec(DOWN, (3, 12)) == P("tensor", "fsdp")
    assert meshes.gathered_spec(DOWN) == P("tensor", None)


@pytest.mark.parametrize("name", MODELS)
def test_norms_and_biases_are_not_decayed(name):
    """With gradients of zero the update of a weight of one is its decay, and nothing else."""
    params, infos = described(MODELS[name])
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), params)
    decays = jax.tree.map(lambda info: info.decay, infos)
    config = OptimConfig(weight_decay=0.5)
    grads, start = jax.tree.map(np.zeros_like, ones), jax.jit(functools.partial(optim.start, config))(ones)
    updates, _ = jax.jit(optim.optimizer(config, decays).update)(grads, start, ones)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        np.testing.assert_array_equal(update, -0.5 if path[-1].key in DECAYED else 0.0, err_msg=str(path))


def test_a_product_is_rounded_once_and_so_are_its_gradients():
    """In bfloat16: what float32 gives for the same numbers, rounded."""
    x, w = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i, shape in enumerate([(2, 5, 16), (16, 8)]))
    cotangent = jax.random.normal(jax.random.key(2), (2, 5, 8), jnp.bfloat16)
    with jax.set_mesh(meshes.make(MeshConfig())):
        y, pull = jax.vjp(lambda x, w: product("BTD,DF->BTF", x, w, meshes.HIDDEN), x, w)
        dx, dw = pull(cotangent)
    exact = lambda e, *arrays: jnp.einsum(e, *(a.astype(jnp.float32) for a in arrays))
    for got, want in (
        (y, exact("BTD,DF->BTF", x, w)),
        (dx, exact("BTF,DF->BTD", cotangent, w)),
        (dw, exact("BTF,BTD->DF", cotangent, x)),
    ):
        assert got.dtype == jnp.bfloat16
        assert_close(got, want.astype(jnp.bfloat16), "bfloat16", 1)
