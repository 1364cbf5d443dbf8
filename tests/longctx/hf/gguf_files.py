"""GGUF files of the tiny models, written by the library `gguf` as llama.cpp's converter writes them."""

import pathlib

import gguf
import numpy as np

from tests.longctx.hf import tiny

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
}


def by_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of Llama's queries or keys: row i + H/2 of each head behind row i."""
    order = [
        head * (len(rows) // heads) + half * (len(rows) // heads // 2) + i
        for head in range(heads)
        for i in range(len(rows) // heads // 2)
        for half in range(2)
    ]
    return rows[order]


def of_gpt_oss(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors with names that end as others do; experts with outputs first, and gate and up, whose columns take turns,
    apart."""
    found = {}
    for theirs, value in values.items():
        at, bias = theirs.removesuffix("_bias"), theirs.endswith("_bias")
        kind, value = ("bias", value) if bias else ("weight", value.swapaxes(-1, -2) if "experts" in at else value)
        if at.endswith("gate_up_proj"):
            parts = (value[:, i::2] for i in range(2))
            found |= {f"{at.replace('gate_up', name)}.{kind}": x for name, x in zip(("gate", "up"), parts, strict=True)}
        elif at.endswith(("experts.down_proj", "sinks")):
            found[f"{at}.{kind}"] = value
        else:
            found[theirs] = value
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def tensors(content: dict, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{GGUF's name: values as the converter stores them} of a model with that config.json."""
    architecture = ARCHITECTURES[content["model_type"]]
    names = gguf.get_tensor_name_map(architecture, content["num_hidden_layers"])
    stored = {}
    for theirs, value in (of_gpt_oss(values) if content["model_type"] == "gpt_oss" else values).items():
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        paired = content["model_type"] in ("llama", "smollm3")
        if paired and ".q_proj" in theirs:
            value = by_pairs(value, content["num_attention_heads"])
        if paired and ".k_proj" in theirs:
            value = by_pairs(value, content["num_key_value_heads"])
        if "query_key_value" in theirs:
            heads = value.reshape(content["num_attention_heads"], 3, -1, *value.shape[1:])
            value = np.concatenate([heads[:, part].reshape(-1, *value.shape[1:]) for part in range(3)])
        if content["model_type"].startswith("gemma") and name.endswith("norm.weight"):
            value = (value.astype(np.float32) + 1).astype(value.dtype)
        stored[name] = value
    return stored


def write(
    path: pathlib.Path,
    content: dict,
    values: dict[str, np.ndarray],
    quantization: gguf.GGMLQuantizationType | None = None,
    more=lambda writer: None,
) -> pathlib.Path:
    """The file of a model. quantization: of all matrices, MXFP4 of those of experts. more: adds to the metadata."""
    architecture = ARCHITECTURES[content["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(content["max_position_embeddings"])
    writer.add_embedding_length(content["hidden_size"])
    writer.add_block_count(content["num_hidden_layers"])
    writer.add_feed_forward_length(content["intermediate_size"])
    writer.add_head_count(content["num_attention_heads"])
    if content["model_type"] == "gpt_neox":
        head_dim = content["hidden_size"] // content["num_attention_heads"]
        writer.add_rope_dimension_count(int(content["rotary_pct"] * head_dim))
        writer.add_parallel_residual(content["use_parallel_residual"])
        writer.add_layer_norm_eps(content["layer_norm_eps"])
    else:
        writer.add_head_count_kv(content["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(content["rms_norm_eps"])
        writer.add_rope_freq_base(content["rope_theta"])
    if "head_dim" in content:
        writer.add_key_length(content["head_dim"])
        writer.add_value_length(content["head_dim"])
    if content.get("partial_rotary_factor"):
        head_dim = content["hidden_size"] // content["num_attention_heads"]
        writer.add_rope_dimension_count(int(content["partial_rotary_factor"] * head_dim))
    if content["model_type"] == "phi3":
        writer.add_rope_scaling_orig_ctx_len(content["original_max_position_embeddings"])
        writer.add_sliding_window(content["sliding_window"] or 0)
    if content["model_type"].startswith(("gemma", "gpt_oss")):
        writer.add_sliding_window(content["sliding_window"])
    if content["model_type"] == "gpt_oss":
        writer.add_expert_count(content["num_local_experts"])
        writer.add_expert_used_count(content["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(content["intermediate_size"])
    if content.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(content["final_logit_softcapping"])
    if content.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(content["attn_logit_softcapping"])
    scaling = content.get("rope_scaling")
    if scaling and scaling.get("rope_type") == "longrope":
        for name in ("long", "short"):
            factors = np.array(scaling[f"{name}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{name}.weight", factors)
    elif scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.get("rope_type") or scaling["type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
        if "original_max_position_embeddings" in scaling:
            writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "beta_fast" in scaling:
            writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
    more(writer)
    for name, value in tensors(content, values).items():
        _add(writer, name, value, quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, name: str, value: np.ndarray, quantization) -> None:
    if value.dtype.name == "bfloat16":
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, value.view(np.uint8), raw_dtype=kind)
    elif quantization is not None and value.ndim == (3 if quantization.name == "MXFP4" else 2):
        writer.add_tensor(name, gguf.quants.quantize(value, quantization), raw_dtype=quantization)
    else:
        writer.add_tensor(name, value)


def content_of(name: str, **changed) -> dict:
    """config.json of a tiny model, in the dialect of transformers 4, with changed settings."""
    return tiny.config(name, tiny.V4) | changed
