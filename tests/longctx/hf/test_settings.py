"""The meaning of config.json: both dialects, RoPE overrides, what can be written, and errors."""

import dataclasses
import re
import subprocess
import sys

import pytest

from longctx import hf
from longctx.config import LayerConfig, ModelConfig, RopeConfig
from longctx.errors import UserError
from longctx.hf import folder
from longctx.hf import rope as ropes
from longctx.hf.architectures import ARCHITECTURES, differences, explicit, express
from longctx.hf.settings import shortest
from tests.longctx.hf import tiny


@pytest.mark.parametrize("name", tiny.NAMES)
def test_both_dialects_and_what_is_written_mean_the_same(name):
    config = folder.read(tiny.config(name))
    assert folder.read(tiny.config(name, tiny.V4)) == config
    model_type, settings, said = express(config)
    assert differences(config, folder.read(settings)) == []
    architecture = ARCHITECTURES[tiny.config(name)["model_type"]]  # another may say it as well
    assert differences(config, architecture.read(architecture.settings(architecture.write(explicit(config), 0)))) == []


def test_every_architecture_is_covered():
    assert {tiny.config(name)["model_type"] for name in tiny.NAMES} == ARCHITECTURES.keys()


def test_model_config_of_a_folder(tmp_path):
    config = hf.model_config(tiny.write(tmp_path, "gemma3"))
    assert config.param_dtype == config.dtype == "float32"
    assert (config.layers, config.d_model, config.heads, config.kv_heads, config.head_dim) == (4, 32, 4, 2, 12)
    local, full = config.kinds[0], config.kinds[2]
    assert local.mask == "causal & window(16)" and local.rope == RopeConfig(theta=1e4)
    assert full.mask == "causal" and full.rope is None and config.rope.scaling == "linear" and config.rope.factor == 8
    assert (config.block, config.norm_offset, config.embedding_scale) == ("sandwich", 1.0, 32**0.5)


def test_model_config_needs_no_jax(tmp_path):
    tiny.write(tmp_path, "llama")
    code = f"import sys; from longctx import hf; hf.model_config({str(tmp_path)!r}); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    "override, wanted",
    [
        ({"rope_type": "yarn", "factor": 4.0}, dict(scaling="yarn", factor=4.0, original_length=64)),
        ({"type": "linear", "factor": 2.0}, dict(scaling="linear", factor=2.0)),
        ({"rope_type": "default", "rope_theta": 5e5}, dict(theta=5e5)),
        ({"rope_type": "dynamic", "factor": 2.0}, dict(scaling="dynamic", factor=2.0, original_length=64)),
        (
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "attention_factor": 1.5},
            dict(scaling="yarn", factor=2.0, original_length=32, attention_factor=1.5),
        ),
    ],
)
@pytest.mark.parametrize("dialect", [tiny.V5, tiny.V4])
def test_rope_overrides(override, wanted, dialect):
    """An override keeps what it leaves out: theta, pairing, rotary_fraction, and layers with another RoPE."""
    for name in ("qwen3_yarn", "cohere2", "gpt_neox", "gemma3"):
        before, after = (folder.read(tiny.config(name, dialect), scaling) for scaling in (None, override))
        kept = dict(
            theta=before.rope.theta,
            pairing=before.rope.pairing,
            rotary_fraction=before.rope.rotary_fraction,
            original_length=64,
        )
        assert after.rope == RopeConfig(**kept | wanted), name
        assert dataclasses.replace(after, rope=before.rope) == before


def test_a_rope_config_overrides_all_but_what_the_weights_are_made_for():
    rope = RopeConfig(theta=1e6, scaling="yarn", factor=4.0, original_length=64)
    assert folder.read(tiny.config("cohere2"), rope).rope == dataclasses.replace(rope, pairing="interleaved")
    assert folder.read(tiny.config("gpt_neox"), rope).rope == dataclasses.replace(rope, rotary_fraction=0.25)
    unsaid = dataclasses.replace(rope, original_length=0)
    assert folder.read(tiny.config("llama_longrope"), unsaid).rope == dataclasses.replace(rope, original_length=48)


def test_original_length_beside_the_scaling_counts():
    scaling = tiny.config("llama_longrope")["rope_parameters"] | {"original_max_position_embeddings": 40}
    scaling.pop("factor")
    settings = tiny.config("llama_longrope") | {"rope_parameters": scaling, "max_position_embeddings": 400}
    assert folder.read(settings).rope.factor == 10
    beside = folder.read(settings | {"original_max_position_embeddings": 50}).rope
    assert (beside.original_length, beside.factor) == (50, 8)


@pytest.mark.parametrize("name", tiny.NAMES)
def test_without_windows(name):
    """transformers makes the masks of some architectures of sliding_window even if no layer has one."""
    config = folder.read(tiny.config(name))
    kinds = tuple(
        dataclasses.replace(kind, mask="", rope=None, position="nope" if name == "cohere2" else kind.position)
        for kind in config.pattern
    )
    model_type, settings, _ = express(dataclasses.replace(config, pattern=kinds), 100)
    needs_a_number = model_type in ("gemma2", "gemma3_text", "cohere2", "gpt_oss")
    assert settings.get("sliding_window") == (settings["max_position_embeddings"] if needs_a_number else None)
    assert set(settings.get("layer_types", ["full_attention"])) == {"full_attention"}


@pytest.mark.parametrize(
    "rope, longest, wanted",
    [
        (RopeConfig(), 0, 2048),
        (RopeConfig(), 100, 100),
        (RopeConfig(original_length=512), 100, 512),
        (RopeConfig(scaling="linear", factor=4.0, original_length=64), 100, 256),
        (RopeConfig(scaling="linear", factor=4.0, original_length=64), 500, 500),
        # version 4 takes the factor from it
        (RopeConfig(scaling="yarn", factor=4.0, original_length=64), 100, 256),
        (RopeConfig(scaling="yarn", factor=4.0, original_length=64), 500, 256),
        (RopeConfig(scaling="dynamic", factor=4.0, original_length=64), 500, 64),
    ],
)
def test_longest_row_of_a_written_rope(rope, longest, wanted):
    assert ropes.reach(rope, longest) == wanted


@pytest.mark.parametrize(
    "scaling, part",
    [
        ({"rope_type": "yarm", "factor": 2.0}, "rope_type='yarm'"),
        ({"facter": 2.0}, "Did you mean"),
        ({"rope_type": "linear", "factor": "2"}, "factor='2' must be a number"),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": 1}, "truncate=1 must be true or false"),
        ({"rope_type": "linear"}, "'linear' needs a factor"),
        ({"factor": 2.0}, "scaling 'none' reads no factor"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 8.0}, "scaling 'linear' reads no beta_fast; yarn would"),
    ],
)
def test_a_rope_that_cannot_be_said(scaling, part):
    with pytest.raises(UserError, match=re.escape(part)) as error:
        folder.read(tiny.config("llama"), scaling)
    assert "\n" not in str(error.value)


def test_shortest_pattern():
    a, b = LayerConfig(), LayerConfig(position="nope")
    assert shortest([a, a, a]) == (a,)
    assert shortest([a, b, a, b, a]) == (a, b)
    assert shortest([a, a, b]) == (a, a, b)


@pytest.mark.parametrize(
    "config, model_type",
    [
        (ModelConfig(), "llama"),
        (ModelConfig(qk_norm="rms", rope=RopeConfig(scaling="yarn", factor=16.0, original_length=256)), "qwen3"),
        (ModelConfig(qkv_bias=True), "qwen2"),
        (ModelConfig(pattern=(LayerConfig(), LayerConfig(position="nope"))), "smollm3"),
        (ModelConfig(mask="causal & window(128)", rope=RopeConfig(scaling="ntk", factor=4.0)), "mistral"),
        (
            ModelConfig(
                norm="layer_bias",
                feed_forward="plain",
                mlp_bias=True,
                qkv_bias=True,
                out_bias=True,
                kv_heads=4,
                rope=RopeConfig(rotary_fraction=0.25),
            ),
            "gpt_neox",
        ),
    ],
)
def test_architecture_of_a_model_of_our_own(config, model_type):
    assert express(config)[0] == model_type


@pytest.mark.parametrize(
    "config, part",
    [
        (ModelConfig(position="self_extend(8, 512)"), "model.position='self_extend(8, 512)'"),
        (ModelConfig(mask="causal & (window(64) | sinks(4))"), "model.mask="),
        (ModelConfig(logit_scale=3.0), "model.logit_scale=3.0"),
        (ModelConfig(rope=RopeConfig(scaling="clex", factor=4.0, original_length=256)), "model.rope.scaling='clex'"),
    ],
)
def test_settings_that_no_architecture_has(config, part):
    with pytest.raises(UserError, match="Hugging Face") as error:
        express(config)
    assert part in str(error.value)


@pytest.mark.parametrize(
    "name, changed, parts",
    [
        ("llama", {"model_type": "lama"}, ["'lama'", "Did you mean 'llama'?"]),
        ("llama", {"hidden_act": "relu"}, ["hidden_act='relu'", "silu"]),
        ("llama", {"rope_parameters": {"rope_type": "spiral"}}, ["rope_type='spiral'", "yarn"]),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["low_freq_factor, high_freq_factor"]),
        ("llama", {"quantization_config": {"quant_method": "mxfp4"}}, ["mxfp4"]),
        ("llama", {"dtype": "int8"}, ["dtype='int8'", "bfloat16"]),
        ("llama", {"hidden_size": -1}, ["hidden_size=-1"]),
        ("gemma2", {"use_bidirectional_attention": True}, ["use_bidirectional_attention=True"]),
        ("gemma2", {"layer_types": ["full_attention"]}, ["layer_types names 1 layers of 3"]),
        ("qwen3", {"layer_types": ["full_attention", "odd"]}, ["'odd'", "sliding_attention"]),
        ("gpt_oss", {"swiglu_limit": 5.0}, ["swiglu_limit=5.0", "7.0"]),
    ],
)
def test_settings_that_are_refused(tmp_path, name, changed, parts):
    tiny.write(tmp_path, name, **changed)
    with pytest.raises(UserError) as error:
        hf.model_config(tmp_path)
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value), error.value


def test_settings_that_are_missing(tmp_path):
    settings = tiny.config("llama")
    with pytest.raises(UserError, match="config.json has no 'hidden_size'"):
        folder.read({name: value for name, value in settings.items() if name != "hidden_size"})
    with pytest.raises(UserError, match="has no config.json"):
        hf.model_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        hf.model_config(tmp_path)
