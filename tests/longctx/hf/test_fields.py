"""Each key of config.json is read and of its kind, known to be harmless, or refused by name: never passed over."""

import math

import pytest

from longctx import hf
from longctx.config import RopeConfig
from longctx.errors import UserError
from longctx.hf import folder
from longctx.hf.architectures import ARCHITECTURES
from longctx.hf.fields import FIELDS, FIXED, HARMLESS
from longctx.hf.settings import REQUIRED, Settings
from tests.longctx.hf import tiny

OF_EACH = {tiny.config(name)["model_type"]: name for name in tiny.NAMES}  # a golden model of each model_type
FULL, SLIDING = "full_attention", "sliding_attention"
WRONG = (None, "x", "1e4", True, -5, 0, 0.5, 2**62, 10**400, math.nan, math.inf, 1e300, [], ["a"], [[1.0]], {"a": 1})


def refused(content: dict) -> str:
    with pytest.raises(UserError) as error:
        folder.read(content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_value_is_read_or_refused_in_one_line(model_type):
    """Draws values for every key that some model_type reads, at the top level and inside RoPE's settings."""
    for dialect in (tiny.V5, tiny.V4):
        content = tiny.config(OF_EACH[model_type], dialect)
        ropes = {outer: content[outer] for outer in ("rope_scaling", "rope_parameters") if content.get(outer)}
        changed = [content | {key: value} for key in {*content, *FIELDS} for value in WRONG]
        changed += [
            content | {outer: rope | {key: value}} for outer, rope in ropes.items() for key in rope for value in WRONG
        ]
        for one in changed:
            try:
                folder.read(one)
                folder.dtype_of(one)
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 500


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_declared_setting_is_asked_for(model_type):
    """A setting that is declared and not read would be passed over without a word."""
    asked = set()

    class Recording(Settings):
        def __getitem__(self, name):
            asked.add(name)
            return super().__getitem__(name)

        def get(self, name, default=None):
            asked.add(name)
            return super().get(name, default)

    architecture, lists = ARCHITECTURES[model_type], {"layer_types": None, "use_sliding_window": True}
    lists = {name: value for name, value in lists.items() if name in architecture.defaults}
    for name in tiny.NAMES:
        for dialect in (tiny.V5, tiny.V4):
            if (content := tiny.config(name, dialect))["model_type"] == model_type:
                architecture.read(Recording(architecture.settings(content | lists)))
    declared = {*REQUIRED, *architecture.defaults}
    unasked = {name for name in declared - asked if name not in folder.ROPE}  # rope.read asks when it needs one
    assert unasked == set()
    assert declared <= FIELDS.keys() and not declared & (HARMLESS | FIXED.keys() | architecture.fixed.keys())


@pytest.mark.parametrize(
    "name, changed, part",
    [
        (
            "qwen2",
            {"dual_chunk_attention_config": {"chunk_size": 8192}},
            "dual_chunk_attention_config={'chunk_size': 8192} "
            "is not known to longctx for qwen2; remove it if it changes no numbers",
        ),
        ("qwen2", {"use_logn_attn": True}, "use_logn_attn=True"),
        ("qwen2", {"is_causal": False}, "is_causal=False"),
        ("llama", {"attention_chunk_size": 8192}, "attention_chunk_size=8192"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "alpha": 3}}, "rope_parameters.alpha=3"),
        ("mistral", {"attention_bias": True}, "attention_bias=True"),
        ("gpt_oss", {"num_experts": 4}, "num_experts=4"),
        ("gpt_oss", {"swiglu_alpha": 1.0}, "swiglu_alpha=1.0 is not supported; 1.702 is"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),  # transformers ignores it
        ("gemma3", {"rope_parameters": {"rope_type": "default"}}, "rope_type"),
        (
            "gemma3",
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {FULL: {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}},
            },
            "both scale RoPE; keep one of them",
        ),
        ("llama4_moe", {"hidden_act": "gelu"}, "hidden_act='gelu'"),  # its experts have one
        ("cohere2", {"use_parallel_block": False}, "use_parallel_block=False"),
        ("phi3", {"interpolate_factor": 2}, "interpolate_factor=2"),
        ("gpt_neox", {"rope_theta": 5e5}, "rope_theta=500000.0"),  # transformers: rotary_emb_base
        # layers without the size that their type needs
        ("mistral", {"layer_types": [SLIDING, FULL], "sliding_window": None}, "sliding_window is null"),
        ("qwen3", {"layer_types": [SLIDING, FULL], "sliding_window": 8}, "use_sliding_window"),
        ("llama4_dense", {"layer_types": [SLIDING] * 4}, "layer_types='sliding_attention'"),
        ("qwen3", {"layer_types": [FULL] * 3}, "layer_types names 3 layers of 2"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers names 1 layers of 5"),
        # numbers that mean nothing
        *(("llama", {"rope_parameters": None, "rope_theta": base}, "rope_theta=") for base in (math.nan, 0, -5, "1e4")),
        ("llama", {"rms_norm_eps": math.inf}, "rms_norm_eps=inf"),
        (
            "llama_longrope",
            {"rope_parameters": tiny.config("llama_longrope")["rope_parameters"] | {"short_factor": [1.0, 2.0]}},
            "short_factors holds 2 numbers",
        ),
        (
            "llama_longrope",
            {
                "rope_parameters": tiny.config("llama_longrope")["rope_parameters"]
                | {"long_factor": [1.0, 2.0, 0.0, 1.0]}
            },
            "long_factor=",
        ),
        (
            "llama",
            {"num_attention_heads": 3, "head_dim": None},
            "num_key_value_heads=2 must divide num_attention_heads=3",
        ),
        ("llama", {"head_dim": 0}, "head_dim=0"),
        ("llama", {"num_hidden_layers": 10**6}, "num_hidden_layers=1000000 must be a whole number from 1 to 10000"),
        ("llama", {"model_type": ["llama"]}, "model_type=['llama']"),
        ("llama", {"quantization_config": "int4"}, "quantized"),
        ("gpt_oss", {"num_experts_per_tok": 9}, "num_experts_per_tok=9 must be from 1 to num_local_experts=4"),
    ],
)
def test_what_is_refused(name, changed, part):
    assert part in refused(tiny.config(name) | changed)


@pytest.mark.parametrize(
    "name, extra",
    [
        # what published files of these families hold beside the settings that transformers' own classes have
        (
            "llama",
            {
                "_name_or_path": "x",
                "auto_map": {"AutoConfig": "a.B"},
                "torch_dtype": "float32",
                "pretraining_tp": 2,
                "is_llama_config": True,
                "rope_interleaved": False,
                "transformers.js_config": {"dtype": "q4"},
                "max_sequence_length": 2048,
                "unsloth_version": "2025.1",
                "_attn_implementation_autoset": True,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 16.0,
                    "original_max_position_embeddings": 64,
                    "finetuned": True,
                },
            },
        ),
        (
            "qwen2",
            {
                "use_mrope": False,
                "sliding_window": 131072,
                "max_window_layers": 28,
                "use_logn_attn": None,
                "dual_chunk_attention_config": None,
                "quantization_config": None,
                "is_causal": True,
            },
        ),
        ("smollm3", {"max_window_layers": 28, "pretraining_tp": 2}),
        ("gemma2", {"hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 4096, "cache_implementation": "hybrid"}),
        ("gemma3", {"cache_implementation": "hybrid", "_sliding_window_pattern": 6, "eos_token_id": [1, 106]}),
        (
            "phi3",
            {
                "full_attn_mod": 1,
                "interpolate_factor": 1,
                "lm_head_bias": False,
                "mlp_bias": False,
                "attention_bias": False,
                "embd_pdrop": 0.0,
                "resid_pdrop": 0.1,
            },
        ),
        (
            "cohere2",
            {
                "layer_switch": 4,
                "order_of_interleaved_layers": "local_attn_first",
                "rotary_pct": 1.0,
                "position_embedding_type": "rope_gptj",
                "use_embedding_sharing": True,
                "use_gated_activation": True,
                "use_parallel_block": True,
                "use_parallel_embedding": True,
                "use_qk_norm": False,
            },
        ),
        (
            "gpt_neox",
            {
                "attention_probs_dropout_prob": 0,
                "hidden_dropout_prob": 0,
                "partial_rotary_factor": 0.25,
                "rope_theta": 10000,
                "is_decoder": True,
            },
        ),
        ("gpt_oss", {"experts_per_token": 2, "initial_context_length": 4096, "router_aux_loss_coef": 0.9}),
        (
            "llama4_moe",
            {
                "for_llm_compressor": False,
                "router_jitter_noise": 0.0,
                "attn_temperature_tuning": 4,
                "cache_implementation": "hybrid",
            },
        ),
    ],
)
def test_what_published_files_hold_is_taken(name, extra):
    without = {key: value for key, value in extra.items() if key in ("rope_scaling", "attn_temperature_tuning")}
    assert folder.read(tiny.config(name) | extra) == folder.read(tiny.config(name) | without)


def test_layer_lists_mean_what_transformers_makes_of_them():
    masks = lambda content: [kind.mask for kind in folder.read(content).kinds]
    window = "causal & window(20)"
    mistral = tiny.config("mistral")
    assert masks(mistral | {"layer_types": [FULL, SLIDING]}) == ["causal", window]  # read as a Ministral
    smollm3 = tiny.config("smollm3") | {"layer_types": [SLIDING, FULL, FULL, FULL, SLIDING], "sliding_window": 20}
    for use in (True, False):
        assert masks(smollm3 | {"use_sliding_window": use}) == [window, "causal", "causal", "causal", window]
    gemma3 = tiny.config("gemma3")
    scaled = {"rope_type": "linear", "rope_theta": 5e3, "factor": 2.0}
    local = folder.read(gemma3 | {"rope_parameters": gemma3["rope_parameters"] | {SLIDING: scaled}}).kinds[0].rope
    assert (local.scaling, local.theta, local.factor) == ("linear", 5e3, 2.0)


@pytest.mark.parametrize(
    "content, part",
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("9" * 5000, "cannot be read"),
        ("[1]", "no JSON object"),
        (b"\xff\xfe{}".decode("latin1"), "cannot be read"),
    ],
)
def test_files_that_are_no_settings(tmp_path, content, part):
    tiny.write(tmp_path, "llama")
    (tmp_path / "config.json").write_text(content, encoding="latin1")
    with pytest.raises(UserError, match=part) as error:
        hf.model_config(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changed, part",
    [
        ({"num_hidden_layers": 9999}, "num_hidden_layers=9999, and the files hold 2"),
        ({"vocab_size": 2**31 - 1}, r"vocab_size=2147483647 and hidden_size=32, and model.embed_tokens.*is \[72, 32\]"),
        ({"hidden_size": 2**62}, "hidden_size=4611686018427387904"),
    ],
)
def test_sizes_are_compared_with_the_files_first(tmp_path, monkeypatch, changed, part):
    """Before anything is done that takes time, or memory, in their proportion."""
    tiny.write(tmp_path, "llama", **changed)
    monkeypatch.setattr(folder, "read", lambda *args: pytest.fail("a model was made of it"))
    with pytest.raises(UserError, match=part):
        hf.model_config(tmp_path)


def test_an_override_is_checked_like_the_file():
    content = tiny.config("llama")
    with pytest.raises(UserError, match="factor='4' must be a number"):
        folder.read(content, {"rope_type": "yarn", "factor": "4"})
    with pytest.raises(UserError, match="rope_scaling='yarn' must be a dict"):
        folder.read(content, "yarn")
    with pytest.raises(UserError, match="rope_scaling.factor=-4.0 must be positive"):
        folder.read(content, RopeConfig(scaling="linear", factor=-4.0))
    with pytest.raises(UserError, match="rope_parameters=7 must be an object"):
        folder.read(content | {"rope_parameters": 7}, {"rope_type": "yarn", "factor": 4.0})
