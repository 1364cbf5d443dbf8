"""Cohere 2 (Command R7B, A): one LayerNorm without bias for both halves, interleaved RoPE in layers with a window."""

from longctx.config import ModelConfig
from longctx.hf.rope import Dialect
from longctx.hf.settings import (
    Settings,
    always_a_window,
    biases,
    every,
    head_dim,
    layer_types,
    model,
    only,
    sized,
    windowed,
    written,
    written_windows,
)

ROPE = Dialect(pairing="interleaved")


def read(settings: Settings) -> ModelConfig:
    """The ModelConfig of a config.json."""
    types = layer_types(settings, every(settings["sliding_window_pattern"]))
    kinds = [
        windowed(size, position="" if size else "nope")
        for size in sized(types, "sliding_window", settings["sliding_window"])
    ]
    only("head_dim", settings["head_dim"], head_dim(settings))  # it has none of its own
    return model(
        settings,
        ROPE,
        kinds,
        eps="layer_norm_eps",
        block="parallel_shared",
        norm="layer",
        logit_scale=settings["logit_scale"],
        **biases(settings),
    )


def write(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    return always_a_window(written(config, ROPE, longest, eps="layer_norm_eps") | written_windows(config)) | {
        "logit_scale": config.logit_scale,
        "attention_bias": config.qkv_bias,
    }
