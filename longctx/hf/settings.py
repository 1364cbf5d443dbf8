"""Conversion between ModelConfig and the settings that config.json has in common for all model families.

A family's `read` makes a ModelConfig from settings, its `write` makes settings from a ModelConfig. `write` may leave
out what its family cannot express: architectures.express reads the result back and compares.
"""

import re

from longctx.config import LayerConfig, ModelConfig
from longctx.errors import UserError, unknown_name
from longctx.hf import rope as ropes
from longctx.hf.fields import FIELDS, FIXED, HARMLESS, shown
from longctx.positions import api as positions

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
DTYPES = ("float32", "bfloat16", "float16")
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "layers",
    "intermediate_size": "mlp_dim",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
}
ALIKE = (LayerConfig(),)  # all layers as the model says
FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")


class Settings(dict):
    """The settings of a config.json; reading a missing one raises UserError."""

    def __missing__(self, name):
        raise UserError(f"config.json has no {name!r}.")


def checked(content: dict, defaults: dict, fixed: dict, harmless) -> Settings:
    """The settings that an architecture reads, their values checked and defaults filled in.

    Args:
      content: of config.json.
      defaults: the settings that the architecture reads beside REQUIRED, with their defaults.
      fixed: settings that must have this one value, or be null or absent.
      harmless: names beside fields.HARMLESS that change no number.

    Raises:
      UserError: for a value that a setting cannot have, and for a setting that is none of these, unless its value is
        null, false, 0 or empty.
    """
    read, fixed = {}, FIXED | fixed
    for name, value in content.items():
        if name in defaults or name in REQUIRED:
            FIELDS[name].check(name, value)
            read[name] = value
        elif name in fixed:
            only(name, value, fixed[name])
        elif value and name not in HARMLESS and name not in harmless:
            raise UserError(
                f"config.json: {shown(name, value)} is not known to longctx for "
                f"{content.get('model_type')}; remove it if it changes no numbers."
            )
    return Settings(defaults | read)


def only(name: str, value, supported) -> None:
    """UserError for a setting whose value is neither null nor the one that is supported."""
    if value is not None and value != supported:
        raise UserError(f"config.json: {shown(name, value)} is not supported; {supported!r} is.")


def head_dim(settings: Settings) -> int:
    """The default of head_dim: hidden_size / num_attention_heads."""
    return settings["hidden_size"] // settings["num_attention_heads"]


def model(
    settings: Settings,
    dialect: ropes.Dialect,
    kinds=ALIKE,
    activation: str = "hidden_act",
    eps: str = "rms_norm_eps",
    **rest,
) -> ModelConfig:
    """The ModelConfig of settings with Llama's names.

    Args:
      kinds: one LayerConfig for each layer, or one for all.
      activation, eps: the family's names of these settings.
      rest: fields of ModelConfig that the family reads otherwise.
    """
    derived = {"num_key_value_heads": settings["num_attention_heads"], "head_dim": head_dim(settings)}
    sizes = {
        ours: settings.get(theirs) or (derived[theirs] if theirs in derived else settings[theirs])
        for theirs, ours in SIZES.items()
    }
    if not sizes["head_dim"]:
        raise UserError(f"config.json: hidden_size={sizes['d_model']} makes {sizes['heads']} heads of size 0.")
    if sizes["heads"] % sizes["kv_heads"]:
        raise UserError(
            f"config.json: num_key_value_heads={sizes['kv_heads']} must divide num_attention_heads={sizes['heads']}."
        )
    if settings[activation] not in ACTIVATIONS:
        raise unknown_name(f"config.json: {activation}", settings[activation], ACTIVATIONS)
    fields = sizes | {
        "tied_head": settings["tie_word_embeddings"],
        "activation": ACTIVATIONS[settings[activation]],
        "embedding_scale": 1.0,
        "norm_eps": settings[eps],
        "pattern": shortest(kinds),
    }
    if "rope" not in rest:
        fields["rope"] = ropes.read(settings, dialect)
    config = ModelConfig(**fields | rest)
    for rope in (config.rope, *(kind.rope for kind in config.pattern if kind.rope)):
        positions.check(rope, config.head_dim, "config.json's rope")
    return config


def written(
    config: ModelConfig, dialect: ropes.Dialect, longest: int, activation: str = "hidden_act", eps: str = "rms_norm_eps"
) -> dict:
    """The settings from which `model` makes this ModelConfig."""
    return (
        {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
        | {
            "tie_word_embeddings": config.tied_head,
            eps: config.norm_eps,
            activation: next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        }
        | ropes.write(config.rope, dialect, longest)
    )


def biases(settings: Settings) -> dict:
    """The ModelConfig fields of attention_bias, one setting for all four projections."""
    return {"qkv_bias": settings["attention_bias"], "out_bias": settings["attention_bias"]}


def shortest(kinds) -> tuple[LayerConfig, ...]:
    """The shortest pattern of layers that repeats to `kinds`."""
    kinds = tuple(kinds)
    repeats = lambda size: all(kind == kinds[i % size] for i, kind in enumerate(kinds))
    return kinds[: next(size for size in range(1, len(kinds) + 1) if repeats(size))]


def layers(config: ModelConfig) -> list[LayerConfig]:
    """The LayerConfig of every layer, with the model's values in the fields that it leaves open."""
    kinds = config.kinds
    return [kinds[i % len(kinds)] for i in range(config.layers)]


def windowed(window: int | None, **rest) -> LayerConfig:
    """A layer whose tokens see the last `window` tokens, themselves included; None: all."""
    return LayerConfig(mask=f"causal & window({window})" if window else "", **rest)


def chunked(size: int | None, **rest) -> LayerConfig:
    """A layer whose tokens see their own chunk of `size` tokens; None: all."""
    return LayerConfig(mask=f"causal & chunked({size})" if size else "", **rest)


def number_in(mask: str, call: str) -> int | None:
    """The number in a call within a mask: 512 for "window" in "causal & window(512)", None where it is absent."""
    match = re.search(rf"{call}\((\d+)\)", mask)
    return int(match[1]) if match else None


def mixture(settings: Settings) -> dict:
    """The ModelConfig fields of a mixture of experts."""
    experts, chosen = settings["num_local_experts"], settings["num_experts_per_tok"]
    if not 1 <= chosen <= experts:
        raise UserError(f"config.json: num_experts_per_tok={chosen} must be from 1 to num_local_experts={experts}.")
    return {"experts": experts, "experts_per_token": chosen, "expert_mlp_dim": settings["intermediate_size"]}


def layer_types(settings: Settings, default, windows: str = SLIDING) -> list[str]:
    """The type of each layer, FULL or `windows`. default: i -> the type of layer i where config.json has no list."""
    count = settings["num_hidden_layers"]
    types = settings["layer_types"]
    if types is None:
        return [default(i) for i in range(count)]
    for kind in types:
        if kind not in (FULL, windows):
            raise unknown_name("config.json: layer_types", kind, (FULL, windows))
    if len(types) != count:
        raise UserError(f"config.json: layer_types names {len(types)} layers of {count}.")
    return list(types)


def sized(types: list[str], name: str, size: int | None) -> list[int | None]:
    """The window or chunk size of each layer: None for FULL, else `size`. name: the setting that holds `size`."""
    if size is None and set(types) != {FULL}:
        raise UserError(f"config.json: {name} is null, and layers of type {(set(types) - {FULL}).pop()} need it.")
    return [None if kind == FULL else size for kind in types]


def every(interval: int):
    """A default for `layer_types`: sliding layers, except every interval-th, which is full."""
    return lambda i: SLIDING if (i + 1) % interval else FULL


def written_windows(config: ModelConfig) -> dict:
    """The settings sliding_window and layer_types of a ModelConfig."""
    sizes = [number_in(layer.mask, "window") for layer in layers(config)]
    return {
        "sliding_window": next(filter(None, sizes), None),
        "layer_types": [SLIDING if size else FULL for size in sizes],
    }


def always_a_window(written: dict) -> dict:
    """The settings with a sliding_window that is a number even where no layer has a window.

    transformers needs one for some architectures; max_position_embeddings then hides nothing, and no layer reads it.
    """
    return written | {"sliding_window": written["sliding_window"] or written["max_position_embeddings"]}
