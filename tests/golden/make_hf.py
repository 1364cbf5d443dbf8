"""Makes hf/: tiny models of every architecture that longctx.hf knows, as transformers computes them.

    python tests/golden/make_hf.py         # needs transformers 5.23 and torch: pip install -e '.[bench]'

hf/NAME/config.json           as transformers 5 writes it; config_legacy.json: as version 4 did
hf/NAME/golden.npz            `shapes` (JSON) of the tensors, whose values tests/longctx/hf/tiny_weights.py gives;
    ids [2, 200]; logits_T: of the last positions of the first T tokens; loss and gradients at 64 tokens, mean over the
    targets: gradnorm (JSON) by tensor, gradient/TENSOR of some; greedy [2, 24]: what follows ids[:, :40]
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.longctx.hf.tiny_weights import weights  # noqa: E402

HERE = pathlib.Path(__file__).with_name("hf")
LENGTHS, LAST, PROMPT, NEW = (16, 64, 200), 6, 40, 24
SIZES = dict(
    vocab_size=72,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=None,
    pad_token_id=None,
)
LONGROPE = dict(
    rope_type="longrope", rope_theta=1e4, short_factor=[1.0, 1.1, 1.25, 1.5], long_factor=[1.2, 2.0, 4.0, 8.0]
)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=64)
MOE = dict(num_local_experts=4, intermediate_size=24, head_dim=8)


def rope(rope_type="default", theta=1e4, **settings):
    return dict(rope_parameters=dict(rope_type=rope_type, rope_theta=theta, **settings))


MODELS = {  # name -> (config class, settings beside SIZES)
    "llama": ("Llama", dict(head_dim=12, rms_norm_eps=1e-5)),
    "llama_bias": ("Llama", dict(attention_bias=True, mlp_bias=True, num_key_value_heads=1, hidden_act="gelu")),
    "llama_tied": ("Llama", dict(tie_word_embeddings=True, num_key_value_heads=4)),
    "llama_llama3": (
        "Llama",
        rope("llama3", 5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    "llama_yarn": ("Llama", dict(rope_parameters=YARN | dict(mscale=0.8, mscale_all_dim=0.5, beta_fast=4.0))),
    "llama_dynamic": ("Llama", rope("dynamic", factor=2.0)),
    "llama_linear": ("Llama", rope("linear", factor=2.5)),
    "llama_longrope": ("Llama", dict(rope_parameters=LONGROPE | dict(factor=6.0, original_max_position_embeddings=48))),
    "qwen2": ("Qwen2", dict(rms_norm_eps=1e-6)),
    "qwen2_window": ("Qwen2", dict(use_sliding_window=True, sliding_window=20, max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=16, **rope(theta=1e6))),
    "qwen3_yarn": ("Qwen3", dict(head_dim=16, attention_bias=True, tie_word_embeddings=True, rope_parameters=YARN)),
    "mistral": ("Mistral", dict(sliding_window=20, head_dim=16)),
    "mistral_full": ("Mistral", dict(sliding_window=None, **rope(theta=1e6))),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=5, no_rope_layers=[1, 0, 1, 1, 0], **rope(theta=2e6))),
    "gemma2": (
        "Gemma2",
        dict(
            num_hidden_layers=3,
            head_dim=12,
            query_pre_attn_scalar=20,
            sliding_window=20,
            attn_logit_softcapping=8.0,
            final_logit_softcapping=12.0,
        ),
    ),
    "gemma3": (
        "Gemma3Text",
        dict(
            num_hidden_layers=4,
            head_dim=12,
            query_pre_attn_scalar=20,
            sliding_window=16,
            layer_types=["sliding_attention"] * 2 + ["full_attention", "sliding_attention"],
            rope_parameters={
                "sliding_attention": dict(rope_type="default", rope_theta=1e4),
                "full_attention": dict(rope_type="linear", rope_theta=1e6, factor=8.0),
            },
        ),
    ),
    "phi3": ("Phi3", dict(sliding_window=20, rms_norm_eps=1e-5)),
    "phi3_longrope": (
        "Phi3",
        dict(
            hidden_size=64,
            max_position_embeddings=256,
            original_max_position_embeddings=48,
            rope_parameters=LONGROPE | dict(partial_rotary_factor=0.5),
        ),
    ),
    "cohere2": (
        "Cohere2",
        dict(
            num_hidden_layers=4,
            sliding_window=20,
            logit_scale=0.5,
            layer_types=["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"],
        ),
    ),
    "gpt_neox": ("GPTNeoX", dict(hidden_size=64, **rope(partial_rotary_factor=0.25))),
    "gpt_neox_sequential": (
        "GPTNeoX",
        dict(
            use_parallel_residual=False, attention_bias=False, **rope("linear", factor=2.0, partial_rotary_factor=0.5)
        ),
    ),
    "gpt_oss": (
        "GptOss",
        dict(
            MOE,
            num_hidden_layers=3,
            num_experts_per_tok=2,
            sliding_window=16,
            rope_parameters=YARN | dict(truncate=False, rope_theta=1.5e5),
        ),
    ),
    "llama4_dense": (
        "Llama4Text",
        dict(
            num_hidden_layers=4,
            moe_layers=[],
            intermediate_size_mlp=40,
            head_dim=8,
            attention_chunk_size=24,
            floor_scale=32,
            attn_scale=0.3,
        ),
    ),
    "llama4_moe": (
        "Llama4Text",
        dict(
            MOE,
            num_hidden_layers=2,
            num_experts_per_tok=2,
            no_rope_layers=[1, 0],
            attention_chunk_size=24,
            attn_temperature_tuning=False,
        ),
    ),
    "llama4_interleaved": (
        "Llama4Text",
        dict(
            MOE,
            num_hidden_layers=4,
            num_experts_per_tok=1,
            floor_scale=32,
            intermediate_size_mlp=40,
            interleave_moe_layer_step=2,
            use_qk_norm=False,
            attention_chunk_size=24,
            **rope("linear", 5e5, factor=2.0),
        ),
    ),
}
WHOLE = (
    "layers.1.self_attn.k_proj.weight",
    "layers.1.self_attn.qkv_proj.weight",
    "layers.0.self_attn.sinks",
    "layers.1.attention.query_key_value.weight",
    "layers.1.input_layernorm.weight",
    "q_norm.weight",
    "router.weight",
)  # of which tensors the gradient is stored


def main() -> None:
    transformers.logging.set_verbosity_error()
    for name, (family, settings) in MODELS.items():
        config = getattr(transformers, f"{family}Config")(**SIZES | settings)
        make(HERE / name, config)
        print(name, sum(file.stat().st_size for file in (HERE / name).iterdir()), "bytes")


def make(folder: pathlib.Path, config) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as checkpoint:
        checkpoint = pathlib.Path(checkpoint)
        AutoModelForCausalLM.from_config(config, dtype="float32").save_pretrained(checkpoint)
        written = json.loads((checkpoint / "config.json").read_text())
        tensors = load_file(checkpoint / "model.safetensors")
        shapes = {tensor: list(value.shape) for tensor, value in tensors.items()}
        values = {tensor: torch.from_numpy(value) for tensor, value in weights(shapes).items()}
        save_file(values, checkpoint / "model.safetensors", {"format": "pt"})
        arrays = {"shapes": json.dumps(shapes), **measured(load(checkpoint))}
        (checkpoint / "config.json").write_text(json.dumps(legacy(written)))
        again = measured(load(checkpoint))
        assert all(np.array_equal(arrays[key], again[key]) for key in again), f"{folder}: the dialects differ"
    np.savez_compressed(folder / "golden.npz", **arrays)
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")
    (folder / "config_legacy.json").write_text(json.dumps(legacy(written), indent=1) + "\n")


def load(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()


def measured(model) -> dict:
    ids = torch.randint(0, SIZES["vocab_size"], (2, LENGTHS[-1]), generator=torch.Generator().manual_seed(0))
    arrays = {"ids": ids.numpy().astype(np.int16)}
    loss = model(ids[:, :64], labels=ids[:, :64], use_cache=False).loss
    loss.backward()
    gradients = {
        tensor.replace("lm_head", "embed_out") if model.config.model_type == "gpt_neox" else tensor: p.grad
        for tensor, p in model.named_parameters()
    }
    arrays["loss"] = loss.item()
    with torch.no_grad():  # from short to long: dynamic RoPE does not forget a longer one
        for length in LENGTHS:
            arrays[f"logits_{length}"] = model(ids[:, :length], use_cache=False).logits[:, -LAST:].numpy()
    arrays["gradnorm"] = json.dumps({tensor: gradient.norm().item() for tensor, gradient in gradients.items()})
    arrays |= {
        f"gradient/{tensor}": gradient.numpy() for tensor, gradient in gradients.items() if tensor.endswith(WHOLE)
    }
    if (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") not in ("dynamic", "longrope"):
        arrays["greedy"] = greedy(model, ids[:, :PROMPT]).numpy().astype(np.int16)
    return arrays


def greedy(model, ids):
    """The same with and without a cache."""
    cached = model.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=None, use_cache=True)
    plain = ids
    with torch.no_grad():
        for _ in range(NEW):
            plain = torch.cat([plain, model(plain, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(cached, plain), f"{model.config.model_type}: the cache changes the tokens"
    return cached[:, ids.shape[1] :]


def legacy(config: dict) -> dict:
    """The same settings as version 4 of transformers wrote them."""
    old = {name: value for name, value in config.items() if name not in ("rope_parameters", "dtype", "layer_types")}
    family, rope, kinds = config["model_type"], dict(config["rope_parameters"]), config.get("layer_types", [])
    if "full_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    if family in ("gemma3_text", "cohere2"):
        old["sliding_window_pattern"] = kinds.index("full_attention") + 1
    theta, share = rope.pop("rope_theta"), rope.pop("partial_rotary_factor", None)
    old["rotary_emb_base" if family == "gpt_neox" else "rope_theta"] = theta
    if share is not None:
        old["rotary_pct" if family == "gpt_neox" else "partial_rotary_factor"] = share
    if family == "phi3":
        rope.pop("original_max_position_embeddings", None)  # it is beside the dict as well
    if family == "llama" and rope["rope_type"] in ("linear", "dynamic"):
        rope["type"] = rope.pop("rope_type")
    old["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    return old | {"torch_dtype": config["dtype"], "transformers_version": "4.46.0"}


if __name__ == "__main__":
    main()
