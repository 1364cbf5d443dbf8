"""Makes hf_random.json: config.json files drawn at random, and what transformers computes with each.

    python tests/golden/make_hf_random.py       # needs transformers 5.24 and torch: pip install -e '.[bench]'

One line a file: its `config`; `logits` [2, 5] of the tokens AT of row IDS, or null where transformers refuses it. The
weights are those of tests/longctx/hf/tiny_weights.py, by the names of the tensors.
"""

import json
import pathlib
import random
import sys
import tempfile

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.longctx.hf.tiny_weights import weights  # noqa: E402

HERE = pathlib.Path(__file__).with_name("hf_random.json")
EACH = 5  # files of an architecture
IDS = [(7 * i * i + 3 * i) % 40 for i in range(40)]
AT, KEPT = (11, 39), 5  # tokens whose logits are kept, and how many of these
FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
ACTIVATIONS = ("silu", "silu", "gelu", "gelu_pytorch_tanh")
FACTORS = dict(short_factor=[1.0, 1.1, 1.25, 1.5], long_factor=[1.2, 2.0, 4.0, 8.0])
ROPES = (  # beside rope_theta; heads are 8 wide
    dict(rope_type="default"),
    dict(rope_type="linear", factor=2.5),
    dict(rope_type="dynamic", factor=2.0),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
    dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=32, attention_factor=1.3, beta_fast=8.0),
    dict(
        rope_type="yarn",
        factor=4.0,
        original_max_position_embeddings=16,
        mscale=0.8,
        mscale_all_dim=0.5,
        truncate=False,
    ),
    dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
    ),
    dict(rope_type="longrope", factor=3.0, original_max_position_embeddings=16, **FACTORS),
)


def main() -> None:
    transformers.logging.set_verbosity_error()
    drawn = [draw(model_type, seed) for model_type in OWN for seed in range(EACH)]
    lines = [json.dumps({"config": config, "logits": logits(config)}) for config in drawn]
    HERE.write_text("\n".join(lines) + "\n")
    print(len(lines), "files,", HERE.stat().st_size, "bytes")


def draw(model_type: str, seed: int) -> dict:
    """A config.json; what it says may make no sense together."""
    pick = random.Random(f"{model_type} {seed}")
    config = {
        "model_type": model_type,
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_hidden_layers": pick.choice((1, 2, 3)),
        "head_dim": 8,
        "num_key_value_heads": pick.choice((1, 2, 4)),
        "tie_word_embeddings": pick.random() < 0.5,
        "max_position_embeddings": 32,
        "rope_theta": pick.choice((100.0, 1e4)),
        "pad_token_id": None,
    }
    eps = "layer_norm_eps" if model_type in ("cohere2", "gpt_neox") else "rms_norm_eps"
    activation = "hidden_activation" if model_type.startswith("gemma") else "hidden_act"
    config |= {eps: pick.choice((1e-6, 1e-5, 1e-2)), activation: pick.choice(ACTIVATIONS)}
    scaling = pick.choice(ROPES) if pick.random() < 0.5 else ROPES[0]
    config |= (
        {"rope_scaling": dict(scaling)}
        if pick.random() < 0.5
        else {"rope_parameters": scaling | {"rope_theta": config["rope_theta"]}}
    )
    config |= OWN[model_type](pick, config["num_hidden_layers"])
    return {name: value for name, value in config.items() if value is not ...}  # ...: left out


def _types(pick, layers, windows=SLIDING):
    return pick.choice(
        (
            None,
            ...,
            [pick.choice((FULL, windows)) for _ in range(layers)],
            [pick.choice((FULL, windows)) for _ in range(layers)],
        )
    )


def _windows(pick, layers):
    return {"sliding_window": pick.choice((5, 16, None)), "layer_types": _types(pick, layers)}


def _flag(pick):
    return pick.random() < 0.5


def _llama(pick, layers):
    return {"attention_bias": _flag(pick), "mlp_bias": _flag(pick)}


def _qwen(pick, layers):
    return _windows(pick, layers) | {"use_sliding_window": _flag(pick), "max_window_layers": pick.randrange(layers + 1)}


def _smollm3(pick, layers):
    rotates = [pick.randrange(2) for _ in range(layers)]
    return (
        _llama(pick, layers)
        | _windows(pick, layers)
        | {
            "use_sliding_window": _flag(pick),
            "no_rope_layers": pick.choice((rotates, None)),
            "no_rope_layer_interval": pick.choice((1, 2, 4)),
        }
    )


def _gemma2(pick, layers):
    return _windows(pick, layers) | {
        "attention_bias": _flag(pick),
        "query_pre_attn_scalar": pick.choice((8, 20)),
        "attn_logit_softcapping": pick.choice((None, ..., 8.0)),
        "final_logit_softcapping": pick.choice((None, ..., 12.0)),
    }


def _gemma3(pick, layers):
    """A RoPE of its own for layers with a window, in either dialect."""
    full, local = ({"rope_theta": pick.choice((100.0, 1e4))} | pick.choice(ROPES) for _ in range(2))
    said = {
        "rope_parameters": pick.choice(({FULL: full, SLIDING: local}, {FULL: full}, {SLIDING: local})),
        "rope_scaling": ...,
        "rope_theta": ...,
    }
    old = {"rope_local_base_freq": pick.choice((..., 50.0)), "rope_parameters": ...}
    return (
        _gemma2(pick, layers)
        | {
            "attn_logit_softcapping": pick.choice((None, ..., ..., 8.0)),
            "sliding_window_pattern": pick.choice((2, 3, 6)),
        }
        | pick.choice((said, said, old))
    )


def _phi3(pick, layers):
    long = {"rope_type": pick.choice(("longrope", "su")), **FACTORS}
    return {
        "sliding_window": pick.choice((5, 16, None)),
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 16,
        "rope_parameters": ...,
        "rope_scaling": pick.choice((None, long, {"type": long["rope_type"], **FACTORS})),
    }


def _cohere2(pick, layers):
    return _windows(pick, layers) | {
        "attention_bias": _flag(pick),
        "logit_scale": pick.choice((0.25, 0.5)),
        "sliding_window_pattern": pick.choice((2, 3, 4)),
    }


def _gpt_neox(pick, layers):
    return {
        "attention_bias": _flag(pick),
        "use_parallel_residual": _flag(pick),
        "hidden_size": 64,
        "head_dim": ...,
        "rotary_pct": pick.choice((..., 0.5)),
        "rotary_emb_base": pick.choice((..., 100.0)),
        "rope_theta": ...,
        "rope_parameters": ...,
        "rope_scaling": pick.choice((None, ROPES[1], ROPES[2], ROPES[3])),
    }


def _gpt_oss(pick, layers):
    return (
        _windows(pick, layers)
        | {
            "attention_bias": _flag(pick),
            "num_local_experts": 4,
            "num_experts_per_tok": pick.choice((1, 2)),
            "hidden_act": pick.choice(("silu", "silu", "gelu")),
        }
        | pick.choice(({}, {"rope_scaling": ..., "rope_parameters": ...}))
    )


def _llama4(pick, layers):
    rotates = [pick.randrange(2) for _ in range(layers)]
    return {
        "attention_bias": _flag(pick),
        "num_local_experts": 4,
        "num_experts_per_tok": pick.choice((1, 2)),
        "intermediate_size_mlp": 40,
        "moe_layers": pick.choice((None, [], [0])),
        "hidden_act": pick.choice(("silu", "silu", "gelu")),
        "interleave_moe_layer_step": pick.choice((1, 2)),
        "use_qk_norm": _flag(pick),
        "no_rope_layers": pick.choice((rotates, None, [])),
        "no_rope_layer_interval": pick.choice((1, 2, 4)),
        "attention_chunk_size": pick.choice((5, 16, None)),
        "layer_types": _types(pick, layers, CHUNKED),
        "attn_temperature_tuning": _flag(pick),
        "floor_scale": 8,
        "attn_scale": pick.choice((0.1, 0.3)),
    }


OWN = {
    "llama": _llama,
    "mistral": _windows,
    "qwen2": _qwen,
    "qwen3": lambda pick, layers: _qwen(pick, layers) | {"attention_bias": _flag(pick)},
    "smollm3": _smollm3,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi3": _phi3,
    "cohere2": _cohere2,
    "gpt_neox": _gpt_neox,
    "gpt_oss": _gpt_oss,
    "llama4_text": _llama4,
}


def logits(config: dict) -> list[list[float]] | None:
    """None where transformers fails, in whatever way."""
    try:
        model = _model(config)
        with torch.no_grad():
            found = model(torch.tensor([IDS]), use_cache=False).logits[0, list(AT), :KEPT]
    except Exception as error:
        print(config["model_type"], "refused:", str(error).splitlines()[0][:100])
        return None
    return [[round(float(x), 6) for x in row] for row in found] if found.isfinite().all() else None


def _model(config: dict):
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
        read = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(read, dtype="float32", attn_implementation="eager").eval()
    names = {
        name: name.replace("lm_head", "embed_out") if config["model_type"] == "gpt_neox" else name
        for name, _ in model.named_parameters()
    }
    values = weights({names[name]: tuple(value.shape) for name, value in model.named_parameters()})
    for name, value in model.named_parameters():
        value.data = torch.from_numpy(values[names[name]])
    return model


if __name__ == "__main__":
    main()
