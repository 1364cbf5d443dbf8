"""Gemma 2 and 3: norms (1 + w) around both halves, scaled embeddings, alternating windows, soft caps, a local RoPE."""

import dataclasses

from longctx.config import ModelConfig, RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.hf import rope as ropes
from longctx.hf import tensors
from longctx.hf.fields import OBJECT, optional
from longctx.hf.settings import (
    FULL,
    SLIDING,
    Settings,
    always_a_window,
    biases,
    every,
    layer_types,
    model,
    sized,
    windowed,
    written,
    written_windows,
)
from longctx.hf.tensors import Piece

ROPE = ropes.Dialect()
GLOBAL_ROPE = ropes.Dialect(theta=1_000_000.0)
LOCAL_BASE = 10_000.0
LOCAL_ROPE = ropes.Dialect(theta=LOCAL_BASE, theta_name="rope_local_base_freq")

BLOCK = tensors.LLAMA | {
    "attention_post_norm.scale": Piece("post_attention_layernorm.weight"),
    "mlp_norm.scale": Piece("pre_feedforward_layernorm.weight"),
    "mlp_post_norm.scale": Piece("post_feedforward_layernorm.weight"),
}


def read_gemma2(settings: Settings) -> ModelConfig:
    """The ModelConfig of a config.json."""
    types = layer_types(settings, every(2))
    kinds = list(map(windowed, sized(types, "sliding_window", settings["sliding_window"])))
    return model(
        settings,
        ROPE,
        kinds,
        "hidden_activation",
        **_both(settings),
        attention_soft_cap=settings["attn_logit_softcapping"] or 0.0,
    )


def write_gemma2(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    return always_a_window(written(config, ROPE, longest, "hidden_activation") | _written_both(config)) | {
        "attn_logit_softcapping": config.attention_soft_cap or None
    }


def read_gemma3(settings: Settings) -> ModelConfig:
    """The ModelConfig. Layers with a window have their own RoPE, to which an old file's rope_scaling does not apply."""
    full, local = _ropes(settings)
    types = layer_types(settings, every(settings["sliding_window_pattern"]))
    kinds = [
        windowed(size, rope=local if size else None)
        for size in sized(types, "sliding_window", settings["sliding_window"])
    ]
    return model(settings, GLOBAL_ROPE, kinds, "hidden_activation", qk_norm="rms", rope=full, **_both(settings))


def _ropes(settings: Settings) -> tuple[RopeConfig, RopeConfig]:
    """(full, local): the RoPE of full-attention layers and of layers with a window; rope_parameters may hold both.

    As in transformers, a trained length beside the two has no effect, nor does YaRN's `truncate` inside them.
    """
    by_kind = settings["rope_parameters"] or {}
    for name in by_kind:
        if name not in (FULL, SLIDING):
            raise unknown_name("config.json: rope_parameters of gemma3_text", name, (FULL, SLIDING))
        optional(OBJECT).check(f"rope_parameters.{name}", by_kind[name])
    full, local = (by_kind.get(kind) or {} for kind in (FULL, SLIDING))
    if settings["rope_scaling"] and full.get("rope_type", "default") != "default":
        raise UserError(
            f"config.json: rope_scaling={settings['rope_scaling']} and rope_parameters.{FULL}={full} both "
            "scale RoPE; keep one of them."
        )
    if settings["rope_scaling"]:
        full = {"rope_theta": full.get("rope_theta")} | settings["rope_scaling"]
    rest = Settings(settings, original_max_position_embeddings=None)
    full, local = (ropes.read(rest, dialect, part) for dialect, part in ((GLOBAL_ROPE, full), (LOCAL_ROPE, local)))
    local = local if local.scaling != "none" else RopeConfig(theta=local.theta)
    return tuple(dataclasses.replace(rope, truncate=True) for rope in (full, local))


def write_gemma3(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    local = [kind.rope.theta for kind in config.kinds if kind.rope]
    return always_a_window(written(config, GLOBAL_ROPE, longest, "hidden_activation") | _written_both(config)) | {
        "rope_local_base_freq": local[0] if local else LOCAL_BASE
    }


def _both(settings: Settings) -> dict:
    return biases(settings) | {
        "block": "sandwich",
        "norm_offset": 1.0,
        "embedding_scale": settings["hidden_size"] ** 0.5,
        "attention_scale": settings["query_pre_attn_scalar"] ** -0.5,
        "logit_soft_cap": settings["final_logit_softcapping"] or 0.0,
    }


def _written_both(config: ModelConfig) -> dict:
    scalar = (config.attention_scale or config.head_dim**-0.5) ** -2
    return written_windows(config) | {
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": max(round(scalar), 1),
        "final_logit_softcapping": config.logit_soft_cap or None,
    }
