"""Cohere 2 (Command R7B, A): one LayerNorm without bias for both halves, interleaved RoPE in layers with a window."""
from longctx.config import ModelConfig
from longctx.hf.rope import Dialect
from longctx.hf.settings import (
    SLIDING,
    Settings,
    always_a_window,
    biases,
    every,
    layer_types,
    model,
    windowed,
    written,
    written_windows,
)

ROPE = Dialect(pairing="interleaved")


def read(settings: Settings) -> ModelConfig:
    types = layer_types(settings, every(settings["sliding_window_pattern"]))
    kinds = [windowed(settings["sliding_window"]) if kind == SLIDING else windowed(None, position="nope")
             for kind in types]
    settings = Settings(settings, head_dim=None)                # it has none of its own
    return model(settings, ROPE, kinds, block="parallel_shared", norm="layer", norm_eps=settings["layer_norm_eps"],
                 logit_scale=settings["logit_scale"], **biases(settings))


def write(config: ModelConfig, longest: int) -> dict:
    return always_a_window(written(config, ROPE, longest) | written_windows(config)) | {
        "layer_norm_eps": config.norm_eps, "logit_scale": config.logit_scale, "attention_bias": config.qkv_bias}
