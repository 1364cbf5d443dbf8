"""Loading and saving: exact round trips, one file or several, meshes, models of our own, and damaged folders."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding

from longctx import hf, meshes
from longctx.config import AttentionConfig, DataConfig, MeshConfig, ModelConfig, RopeConfig
from longctx.errors import UserError
from longctx.hf import files
from longctx.hf.architectures import differences
from longctx.model import functional
from tests.helpers import assert_close
from tests.longctx.hf import tiny
from tests.longctx.hf.test_parity import LAST, TERMS

ONE_EACH = (
    "llama_bias",
    "llama_tied",
    "qwen2",
    "qwen3",
    "mistral",
    "smollm3",
    "gemma2",
    "gemma3",
    "phi3_longrope",
    "cohere2",
    "gpt_neox",
    "gpt_oss",
    "llama4_interleaved",
)


@pytest.mark.parametrize("name", ONE_EACH)
def test_round_trip(tmp_path, name):
    """Every bit of the tensors and every setting comes back, from bfloat16 in several files to one."""
    values = tiny.tensors(name, ml_dtypes.bfloat16)
    source = tiny.write(tmp_path / "source", name, values, max_shard_size=20_000, dtype="bfloat16")
    assert (source / files.INDEX).exists() and len(list(source.glob("*.safetensors"))) > 1
    model = hf.load(source)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype("bfloat16")}
    hf.save(model, tmp_path / "saved")
    tiny.assert_same(tiny.read(tmp_path / "saved"), values)
    assert json.loads((tmp_path / "saved/config.json").read_text()) == tiny.config(name) | {"dtype": "bfloat16"}


def test_round_trip_in_shards_with_what_lies_beside(tmp_path):
    values = tiny.tensors("llama")
    values["model.norm.weight"] = values["model.norm.weight"].astype(np.float16)  # dtypes may differ
    source = tiny.write(tmp_path / "source", "llama", values)
    (source / "tokenizer.json").write_text("{}")
    (source / "notes.txt").write_text("stays")
    hf.save(hf.load(source), tmp_path / "saved", max_shard_size=20_000)
    tiny.assert_same(tiny.read(tmp_path / "saved"), values)
    index = json.loads((tmp_path / "saved" / files.INDEX).read_text())
    assert index["weight_map"].keys() == values.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in values.values())
    assert all(path.stat().st_size < 25_000 for path in (tmp_path / "saved").glob("*.safetensors"))
    assert (tmp_path / "saved/tokenizer.json").exists() and not (tmp_path / "saved/notes.txt").exists()


def test_other_dtype(tmp_path):
    model = hf.load(tiny.write(tmp_path / "source", "qwen2"), dtype="bfloat16")
    hf.save(model, tmp_path / "saved")
    tiny.assert_same(tiny.read(tmp_path / "saved"), tiny.tensors("qwen2", ml_dtypes.bfloat16))
    again = hf.load(tmp_path / "saved")
    assert again.config == model.config and model.config.dtype == model.config.param_dtype == "bfloat16"


def test_another_position_method(tmp_path):
    """Of one that looks at distances beyond a window otherwise, rows as short as the window are the same."""
    source = tiny.write(tmp_path / "source", "llama")
    ids = np.arange(2 * 30).reshape(2, 30) % 72
    plain, other = hf.load(source), hf.load(source, position="self_extend(3, 8)")
    assert other.config == dataclasses.replace(plain.config, position="self_extend(3, 8)")
    np.testing.assert_allclose(other(ids[:, :8]), plain(ids[:, :8]), atol=1e-5)
    assert np.abs(other(ids) - plain(ids)).max() > 1e-3
    with pytest.raises(UserError, match="config.json of .* cannot say model.position='self_extend"):
        hf.save(other, tmp_path / "saved")
    for position, words in (
        ("t5", "position='t5' learns weights"),
        ("self_extent(3, 8)", "Did you mean 'self_extend'"),
    ):
        with pytest.raises(UserError, match=words):
            hf.load(source, position=position)


@pytest.mark.parametrize("name", ["llama", "gemma3", "cohere2", "gpt_neox"])
@pytest.mark.parametrize("dialect", [tiny.V5, tiny.V4])
def test_other_rope_is_saved(tmp_path, name, dialect):
    source = tiny.write(tmp_path / "source", name)
    (source / "config.json").write_text(json.dumps(tiny.config(name, dialect)))
    model = hf.load(source, rope_scaling={"rope_type": "yarn", "factor": 4.0, "beta_fast": 8.0})
    hf.save(model, tmp_path / "saved")
    assert hf.model_config(tmp_path / "saved") == model.config
    assert json.loads((tmp_path / "saved/config.json").read_text())["max_position_embeddings"] == 256


@pytest.mark.parametrize(
    "name, mesh",
    [
        pytest.param("gpt_oss", MeshConfig(fsdp=2, tensor=2), marks=pytest.mark.slow),
        ("phi3", MeshConfig(fsdp=2, tensor=2)),
        ("qwen3_yarn", MeshConfig(data=2, context=2)),
    ],
)
def test_meshes(tmp_path, name, mesh):
    """Four devices give equal logits, for rows that do not divide by them, and save an equal file."""
    values, golden = tiny.tensors(name), tiny.golden(name)
    model = hf.load(tiny.write(tmp_path / "source", name, values), mesh=meshes.make(mesh))
    if mesh.fsdp > 1:
        assert model.params["embedding"]["table"].addressable_shards[0].data.size == 72 * 32 / 4
    hf.save(model, tmp_path / "saved", max_shard_size=20_000)
    tiny.assert_same(tiny.read(tmp_path / "saved"), values)
    got = model(golden["ids"][:1, :62])
    assert_close(got[:, 64 - LAST :], golden["logits_64"][:1, : LAST - 2], jnp.float32, TERMS)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_of_our_own(tmp_path, tied):
    """Its scaled embeddings, which Llama has not, are multiplied out; the training state goes by its config."""
    rope = RopeConfig(scaling="yarn", factor=2.0, original_length=32)
    config = ModelConfig(
        vocab_size=24,
        layers=2,
        d_model=12,
        mlp_dim=16,
        heads=2,
        kv_heads=1,
        head_dim=8,
        qk_norm="rms",
        tied_head=tied,
        rope=rope,
        dtype="float32",
        remat="none",
    )
    mesh, how, rng = meshes.make(MeshConfig()), AttentionConfig(kernel="reference"), np.random.default_rng(0)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: functional.init(config, how, jax.random.key(0)))
    params = jax.tree.map(
        lambda x: jax.device_put(rng.standard_normal(x.shape, x.dtype), NamedSharding(mesh, x.sharding.spec)), shapes
    )
    hf.save({"params": params, "step": 3}, tmp_path, config=config)
    loaded = dataclasses.replace(hf.load(tmp_path), attention=how)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3"
    ids = np.arange(20).reshape(1, 20)
    assert_close(loaded(ids), hf.Model(config, params, mesh, attention=how)(ids), jnp.float32, 100)
    assert loaded.config.rope == rope


def test_a_state_with_the_source_it_came_from(tmp_path):
    source = tiny.write(tmp_path / "source", "llama_longrope")
    (source / "tokenizer.json").write_text("{}")
    model = hf.load(source)
    config = dataclasses.replace(model.config, rope=RopeConfig(scaling="yarn", factor=8.0, original_length=64))
    hf.save({"params": model.params}, tmp_path / "saved", config=config, source=source, longest=500)
    settings = json.loads((tmp_path / "saved/config.json").read_text())
    assert settings["initializer_range"] == 0.02 and settings["max_position_embeddings"] == 512
    assert hf.model_config(tmp_path / "saved").rope == config.rope and (tmp_path / "saved/tokenizer.json").exists()


YARN = RopeConfig(theta=5e5, scaling="yarn", factor=4.0, original_length=64)


@pytest.mark.parametrize(
    "rope, longest, wanted",
    [
        (None, 100, 512),
        (None, 600, 600),  # the folder's, the longest row
        (YARN, 100, 256),
        (dataclasses.replace(YARN, factor=16.0), 100, 1024),
        (RopeConfig(theta=8e6), 100, 512),
        (RopeConfig(theta=8e6), 600, 600),
        (RopeConfig(scaling="ntk", factor=16.0, original_length=64), 100, 1024),
    ],
)
def test_the_length_that_is_saved(tmp_path, rope, longest, wanted):
    """max_position_embeddings is not the longest training row, and the tokenizer's model_max_length follows."""
    source = tiny.write(tmp_path / "source", "llama_llama3", max_position_embeddings=512)
    (source / "tokenizer_config.json").write_text('{"model_max_length": 1000000, "bos_token": "<s>"}')
    model = hf.load(source)
    config = dataclasses.replace(model.config, rope=rope or model.config.rope)
    hf.save({"params": model.params}, tmp_path / "saved", config=config, source=source, longest=longest)
    settings, beside = (
        json.loads((tmp_path / "saved" / name).read_text()) for name in ("config.json", "tokenizer_config.json")
    )
    assert settings["max_position_embeddings"] == wanted
    assert beside == {"bos_token": "<s>", "model_max_length": 1000000 if wanted == 512 else wanted}
    assert differences(config, hf.model_config(tmp_path / "saved")) == []
    if rope and rope.original_length:  # and where there is no folder
        hf.save({"params": model.params}, tmp_path / "own", config=config, longest=longest)
        assert json.loads((tmp_path / "own/config.json").read_text())["max_position_embeddings"] == wanted


@pytest.mark.parametrize("from_folder", [False, True])
def test_a_run_with_a_tokenizer_of_its_own(tmp_path, from_folder):
    source = tiny.write(tmp_path / "source", "llama", bos_token_id=7, eos_token_id=[8, 9])
    (source / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')
    model = hf.load(source)
    hf.save(
        {"params": model.params},
        tmp_path / "saved",
        config=model.config,
        source=source if from_folder else None,
        data=DataConfig(),
        longest=100,
    )
    settings, generation, beside = (
        json.loads((tmp_path / "saved" / name).read_text())
        for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    )
    assert generation == {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    assert {name: settings[name] for name in generation} == generation
    assert beside["model_max_length"] == settings["max_position_embeddings"] == 100
    assert (tmp_path / "saved/tokenizer.json").exists()


def test_what_cannot_be_saved(tmp_path):
    model = hf.load(tiny.write(tmp_path / "source", "llama"))
    with pytest.raises(UserError, match="config is needed"):
        hf.save({"params": model.params}, tmp_path / "saved")
    with pytest.raises(UserError, match="model.safetensors already"):
        hf.save(model, tmp_path / "source")
    odd = dataclasses.replace(model, config=dataclasses.replace(model.config, position="dca(64, 16)"))
    with pytest.raises(UserError, match=r"cannot say model.position='dca\(64, 16\)'"):
        hf.save(odd, tmp_path / "saved")
    with pytest.raises(UserError, match="no architecture of Hugging Face has model.position"):
        hf.save(dataclasses.replace(odd, settings=None), tmp_path / "saved")


def test_heads_that_are_tied(tmp_path):
    values = tiny.tensors("llama_tied")
    head = {"lm_head.weight": values["model.embed_tokens.weight"]}
    model = hf.load(tiny.write(tmp_path / "same", "llama_tied", values | head))
    hf.save(model, tmp_path / "saved")
    tiny.assert_same(tiny.read(tmp_path / "saved"), values)
    tiny.write(tmp_path / "other", "llama_tied", values | {"lm_head.weight": head["lm_head.weight"] + 1})
    with pytest.raises(UserError, match="lm_head.weight is another"):
        hf.load(tmp_path / "other")


def test_tensors_that_differ_from_config(tmp_path):
    values = tiny.tensors("llama")
    del values["model.norm.weight"], values["lm_head.weight"]
    values["model.layers.1.mlp.up_proj.weight"] = np.zeros((40, 32), np.float32)
    values |= {f"model.layers.{i}.extra.weight": np.zeros(1, np.float32) for i in range(9)}
    values["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)  # says nothing: ignored
    with pytest.raises(UserError) as error:
        hf.load(tiny.write(tmp_path, "llama", values))
    for part in (
        "2 missing: lm_head.weight, model.norm.weight",
        "9 unknown: model.layers.0.extra.weight",
        "and 5 more",
        "1 of another shape: model.layers.1.mlp.up_proj.weight is [40, 32], not [48, 32]",
    ):
        assert part in str(error.value), error.value
    assert "inv_freq" not in str(error.value)


def _cut(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 0 else len(content) + keep])


def _dtype(path):
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))


def _garbled(path):
    path.write_bytes(path.read_bytes().replace(b'"shape"', b'"shabe"', 1))


def _size(path):
    path.write_bytes(path.read_bytes().replace(b"[72,32]", b"[72,31]", 1))


@pytest.mark.parametrize(
    "damage, part",
    [
        *(
            (damage, "is truncated or damaged")
            for damage in (
                lambda path: _cut(path, -1),
                lambda path: _cut(path, 40),
                lambda path: _cut(path, 4),
                lambda path: path.write_bytes(b"\xff" * 64),
                _garbled,
                _size,
            )
        ),
        (_dtype, "has dtype I32; known: F32, BF16"),
        (lambda path: path.rename(path.with_name("pytorch_model.bin")), "pytorch_model.bin is pickled"),
        (lambda path: path.unlink(), "holds neither model.safetensors nor"),
    ],
)
def test_damaged_files(tmp_path, damage, part):
    folder = tiny.write(tmp_path, "llama")
    damage(folder / files.SINGLE)
    with pytest.raises(UserError, match=part) as error:
        hf.load(folder)
    assert "\n" not in str(error.value)


def test_index_that_names_a_missing_file(tmp_path):
    folder = tiny.write(tmp_path, "llama", max_shard_size=20_000)
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(UserError, match=f"names files that are missing: {gone.name}"):
        hf.load(folder)
    (folder / files.INDEX).write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        hf.load(folder)


def test_ids_and_dtypes_that_are_refused(tmp_path):
    folder = tiny.write(tmp_path, "llama")
    with pytest.raises(UserError, match=r"ids is int64\[3\]; it must be token ids \[B, T\]"):
        hf.load(folder)([1, 2, 3])
    with pytest.raises(UserError, match="dtype='float8' is not known"):
        hf.load(folder, dtype="float8")
