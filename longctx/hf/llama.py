"""Llama 2 and 3, and decoders that differ only by settings: Mistral, Qwen 2, Qwen 3, SmolLM3."""

from longctx.config import LayerConfig, ModelConfig
from longctx.errors import UserError
from longctx.hf.rope import Dialect
from longctx.hf.settings import (
    FULL,
    SLIDING,
    Settings,
    biases,
    layer_types,
    layers,
    model,
    number_in,
    sized,
    windowed,
    written,
    written_windows,
)

ROPE = Dialect()
SMOLLM3_ROPE = Dialect(theta=2_000_000.0)


def read_llama(settings: Settings) -> ModelConfig:
    """The ModelConfig of a config.json."""
    return model(settings, ROPE, mlp_bias=settings["mlp_bias"], **biases(settings))


def write_llama(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    return written(config, ROPE, longest) | {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def read_mistral(settings: Settings) -> ModelConfig:
    """The ModelConfig of a Mistral, or of a Ministral, which has layer_types."""
    window = settings["sliding_window"]
    types = layer_types(settings, lambda i: SLIDING if window else FULL)
    return model(settings, ROPE, list(map(windowed, sized(types, "sliding_window", window))))


def write_mistral(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    return written(config, ROPE, longest) | {"sliding_window": number_in(layers(config)[0].mask, "window")}


def read_qwen2(settings: Settings) -> ModelConfig:
    """The ModelConfig of a config.json."""
    return model(settings, ROPE, _qwen_layers(settings), qkv_bias=True)


def write_qwen2(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    return written(config, ROPE, longest) | _written_qwen_layers(config)


def read_qwen3(settings: Settings) -> ModelConfig:
    """The ModelConfig of a config.json."""
    return model(settings, ROPE, _qwen_layers(settings), qk_norm="rms", **biases(settings))


def write_qwen3(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    return write_qwen2(config, longest) | {"attention_bias": config.qkv_bias}


def _qwen_layers(settings: Settings) -> list[LayerConfig]:
    window = settings["sliding_window"] if settings["use_sliding_window"] else None
    full = settings["max_window_layers"]  # the number of leading layers without a window
    types = layer_types(settings, lambda i: SLIDING if window and i >= full else FULL)
    return list(map(windowed, sized(types, "sliding_window or use_sliding_window", window)))


def _written_qwen_layers(config: ModelConfig) -> dict:
    windows = written_windows(config)
    full = windows["layer_types"].index(SLIDING) if SLIDING in windows["layer_types"] else config.layers
    return windows | {"use_sliding_window": windows["sliding_window"] is not None, "max_window_layers": full}


def read_smollm3(settings: Settings) -> ModelConfig:
    """The ModelConfig; use_sliding_window has an effect only where layer_types is left out."""
    window, rotates = settings["sliding_window"], rotating(settings)
    by_default = settings["use_sliding_window"] and window
    types = layer_types(settings, lambda i: SLIDING if by_default and not rotates[i] else FULL)
    kinds = [
        windowed(size, position="" if rotating else "nope")
        for size, rotating in zip(sized(types, "sliding_window", window), rotates, strict=True)
    ]
    return model(settings, SMOLLM3_ROPE, kinds, mlp_bias=settings["mlp_bias"], **biases(settings))


def write_smollm3(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    windows = written_windows(config)
    return (
        written(config, SMOLLM3_ROPE, longest)
        | windows
        | written_rotating(config)
        | {
            "use_sliding_window": windows["sliding_window"] is not None,
            "attention_bias": config.qkv_bias,
            "mlp_bias": config.mlp_bias,
        }
    )


def rotating(settings: Settings) -> list[int]:
    """1 for each layer with RoPE, 0 for each without: no_rope_layers, whose name says the opposite."""
    count, interval = settings["num_hidden_layers"], settings["no_rope_layer_interval"]
    rotates = settings["no_rope_layers"] or [int((i + 1) % interval != 0) for i in range(count)]
    if len(rotates) < count:
        raise UserError(f"config.json: no_rope_layers names {len(rotates)} layers of {count}.")
    return rotates[:count]


def written_rotating(config: ModelConfig) -> dict:
    """The setting no_rope_layers of a ModelConfig, see `rotating`."""
    return {"no_rope_layers": [int(layer.position == "rope") for layer in layers(config)]}
