"""Sizes of a model that do not divide: by name, with what works, before jax says it; whoever asks for the model."""

import dataclasses

import jax
import pytest

from longctx import cuts, hf, meshes
from longctx.config import AttentionConfig, LayerConfig, MeshConfig, ModelConfig
from longctx.errors import UserError
from longctx.model import functional, names
from tests.longctx.hf import tiny

MODEL = ModelConfig(vocab_size=32, layers=2, d_model=16, mlp_dim=24, heads=4, kv_heads=2, head_dim=8)
MIXTURE = dict(feed_forward="gpt_oss", experts=4, experts_per_token=2, expert_mlp_dim=6)
TENSOR, FSDP = MeshConfig(tensor=2), MeshConfig(fsdp=2)
CASES = [
    (dict(vocab_size=33), TENSOR, "model.vocab_size=33 .* divide by mesh.tensor=2; 34 works, or mesh.tensor=1"),
    (dict(kv_heads=1), TENSOR, "model.kv_heads=1 must .* mesh.tensor=2; 2 works, or mesh.tensor=1"),
    (dict(heads=3, kv_heads=3), TENSOR, "model.heads=3"),
    (dict(mlp_dim=25), TENSOR, "model.mlp_dim=25 .* 26 works"),
    (dict(pattern=(LayerConfig(), LayerConfig(mlp_dim=9))), TENSOR, r"model.pattern\[1\].mlp_dim=9"),
    (dict(d_model=17), FSDP, "model.d_model=17 .* mesh.fsdp=2"),
    (dict(kv_heads=3), MeshConfig(), "model.kv_heads=3 must divide model.heads=4; 1, 2, 4 would"),
    (dict(kv_heads=0), MeshConfig(), "model.kv_heads=0"),
    (dict(vocab_size=-1), MeshConfig(), "model.vocab_size=-1"),
    (dict(head_dim=7), MeshConfig(), "model.head_dim=7 must be even; 8 works"),
]
MIXTURES = [
    (MIXTURE | dict(expert_mlp_dim=5), TENSOR, "model.expert_mlp_dim=5"),
    (MIXTURE | dict(expert_mlp_dim=0), MeshConfig(), "model.expert_mlp_dim=0"),
    (MIXTURE | dict(experts_per_token=5), MeshConfig(), "experts_per_token=5 must be from 1 to model.experts=4"),
    (MIXTURE | dict(experts=0), MeshConfig(), "experts_per_token=2 must be from 1 to model.experts=0"),
    (MIXTURE | dict(feed_forward="llama4", experts_per_token=0), MeshConfig(), "experts_per_token=0 must be from 1"),
    (
        MIXTURE | dict(pattern=(LayerConfig(), LayerConfig(feed_forward="gpt_oss")), feed_forward="gated", experts=1),
        MeshConfig(),
        "experts_per_token=2 must be from 1 to model.experts=1",
    ),
]
NAMES = [
    (dict(block="sequentail"), "model.block='sequentail' is not known. Did you mean 'sequential'"),
    (dict(feed_forward="gatd"), "model.feed_forward='gatd'"),
    (dict(activation="relo"), "model.activation='relo'"),
    (dict(norm="rmz"), "model.norm='rmz'"),
    (dict(qk_norm="rmz"), "model.qk_norm='rmz'"),
    (dict(dtype="int8"), "model.dtype='int8'"),
    (dict(remat="layr"), "model.remat='layr'"),
]


@pytest.mark.parametrize("fields, mesh, message", CASES)
def test_sizes_that_do_not_divide(fields, mesh, message):
    with pytest.raises(UserError, match=message) as caught:
        cuts.check(dataclasses.replace(MODEL, **fields), mesh.axes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields, mesh, message", MIXTURES)
def test_sizes_of_a_mixture(fields, mesh, message):
    with pytest.raises(UserError, match=message) as caught:
        names.check(dataclasses.replace(MODEL, **fields), mesh.axes)
    assert "\n" not in str(caught.value)
    names.check(dataclasses.replace(MODEL, **fields | dict(feed_forward="gated", pattern=(LayerConfig(),))), mesh.axes)


@pytest.mark.parametrize(
    "fields, mesh, message", CASES[:2] + MIXTURES[:1] + [(fields, TENSOR, message) for fields, message in NAMES]
)
def test_no_parameters_and_no_graph_of_them(fields, mesh, message):
    model = dataclasses.replace(MODEL, **fields)
    with jax.set_mesh(meshes.make(mesh)):
        with pytest.raises(UserError, match=message):
            functional.init(model, AttentionConfig(), jax.random.key(0))
        with pytest.raises(UserError, match=message):
            functional.graph(model, AttentionConfig())


def test_parameters_need_a_mesh():
    with pytest.raises(UserError, match="there is no mesh: call it under jax.set_mesh"):
        functional.init(MODEL, AttentionConfig(), jax.random.key(0))


@pytest.mark.parametrize(
    "name, mesh, message",
    [
        ("llama", MeshConfig(tensor=3), "model.heads=4 .* mesh.tensor=3; 6 works, or mesh.tensor=2"),
        ("llama", MeshConfig(fsdp=5), "model.d_model=.* mesh.fsdp=5"),
    ],
)
def test_a_folder_on_a_mesh_that_cannot_cut_it(tmp_path, name, mesh, message):
    with pytest.raises(UserError, match=message):
        hf.load(tiny.write(tmp_path, name), mesh=meshes.make(mesh))


@pytest.mark.parametrize(
    "mesh, message",
    [
        (MeshConfig(data=0), "mesh.data=0 must be a whole number from 1"),
        (MeshConfig(context=-1), "mesh.context=-1"),
        (MeshConfig(tensor=1.5), "mesh.tensor=1.5"),
        (MeshConfig(fsdp="2"), "mesh.fsdp='2'"),
    ],
)
def test_meshes_of_no_size(mesh, message):
    with pytest.raises(UserError, match=message):
        meshes.make(mesh)
