"""Gemma 2 and 3: sandwiched (1 + w) norms, scaled embeddings, windows in turn, soft caps; Gemma 3 has a local RoPE."""
from longctx.config import ModelConfig, RopeConfig
from longctx.hf import rope as ropes
from longctx.hf import tensors
from longctx.hf.settings import (
    FULL,
    SLIDING,
    Settings,
    always_a_window,
    biases,
    every,
    layer_types,
    model,
    only,
    windowed,
    written,
    written_windows,
)
from longctx.hf.tensors import Piece

ROPE = ropes.Dialect()
GLOBAL_ROPE = ropes.Dialect(base=1_000_000.0)
LOCAL_BASE = 10_000.0

BLOCK = tensors.LLAMA | {
    "attention_post_norm.scale": Piece("post_attention_layernorm.weight"),
    "mlp_norm.scale": Piece("pre_feedforward_layernorm.weight"),
    "mlp_post_norm.scale": Piece("post_feedforward_layernorm.weight")}


def read_gemma2(settings: Settings) -> ModelConfig:
    types = layer_types(settings, every(2))
    kinds = [windowed(settings["sliding_window"] if kind == SLIDING else None) for kind in types]
    return model(settings, ROPE, kinds, "hidden_activation", **_both(settings))


def write_gemma2(config: ModelConfig, longest: int) -> dict:
    return always_a_window(written(config, ROPE, longest, "hidden_activation") | _written_both(config))


def read_gemma3(settings: Settings) -> ModelConfig:
    """Layers with a window have a RoPE of their own, which scaling leaves alone."""
    parameters = settings.get("rope_parameters") or {}
    full, local = parameters.get(FULL) or {}, parameters.get(SLIDING) or {}
    if settings.get("rope_scaling"):
        full = {"rope_theta": full.get("rope_theta")} | settings["rope_scaling"]
    full = {name: value for name, value in full.items() if name != "truncate"}      # transformers does not see it there
    base = local.get("rope_theta") or settings.get("rope_local_base_freq") or LOCAL_BASE
    types = layer_types(settings, every(settings["sliding_window_pattern"]))
    kinds = [windowed(settings["sliding_window"], rope=RopeConfig(base=float(base))) if kind == SLIDING
             else windowed(None) for kind in types]
    return model(settings, GLOBAL_ROPE, kinds, "hidden_activation", qk_norm="rms",
                 rope=ropes.read(settings, GLOBAL_ROPE, full), **_both(settings))


def write_gemma3(config: ModelConfig, longest: int) -> dict:
    local = [kind.rope.base for kind in config.kinds if kind.rope]
    return always_a_window(written(config, GLOBAL_ROPE, longest, "hidden_activation") | _written_both(config)) | {
        "rope_local_base_freq": local[0] if local else LOCAL_BASE}


def _both(settings: Settings) -> dict:
    only(settings, use_bidirectional_attention=False)
    return biases(settings) | {
        "block": "sandwich", "norm_offset": 1.0, "embedding_scale": settings["hidden_size"] ** 0.5,
        "attention_scale": settings["query_pre_attn_scalar"] ** -0.5,
        "attention_soft_cap": settings["attn_logit_softcapping"] or 0.0,
        "logit_soft_cap": settings["final_logit_softcapping"] or 0.0}


def _written_both(config: ModelConfig) -> dict:
    scalar = (config.attention_scale or config.head_size ** -0.5) ** -2
    return written_windows(config) | {
        "attention_bias": config.qkv_bias, "query_pre_attn_scalar": round(scalar),
        "attn_logit_softcapping": config.attention_soft_cap or None,
        "final_logit_softcapping": config.logit_soft_cap or None}
