"""What the config.json of every family says in the same way, and ModelConfig: both directions.

A family's `read` makes a ModelConfig of settings, its `write` settings of a ModelConfig. `write` may leave out what it
has no words for: architectures.express reads the result back and compares.
"""

import re

from longctx.config import LayerConfig, ModelConfig
from longctx.errors import UserError, unknown_name
from longctx.hf import rope as ropes
from longctx.hf.fields import FIELDS, FIXED, HARMLESS, said
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
    """The settings of a config.json. One that is asked for and missing is a UserError."""

    def __missing__(self, name):
        raise UserError(f"config.json has no {name!r}.")


def checked(content: dict, defaults: dict, fixed: dict, harmless) -> Settings:
    """The settings that an architecture reads, each of its kind.

    Args:
      defaults: what it reads beside REQUIRED, with the value of one that is left out.
      fixed: settings that must have one value, or be null or left out.
      harmless: names beside fields.HARMLESS that change no number.

    Raises:
      UserError: for a value of another kind, and for a setting that is none of these, unless it says nothing: null,
        false, 0 or empty.
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
                f"config.json: {said(name, value)} is not known to longctx for "
                f"{content.get('model_type')}; remove it if it changes no numbers."
            )
    return Settings(defaults | read)


def only(name: str, value, supported) -> None:
    """UserError for a setting that has another value than the one that is known here; null is that one."""
    if value is not None and value != supported:
        raise UserError(f"config.json: {said(name, value)} is not supported; {supported!r} is.")


def head_dim(settings: Settings) -> int:
    """What head_dim is where config.json does not say it."""
    return settings["hidden_size"] // settings["num_attention_heads"]


def model(
    settings: Settings,
    dialect: ropes.Dialect,
    kinds=ALIKE,
    activation: str = "hidden_act",
    eps: str = "rms_norm_eps",
    **rest,
) -> ModelConfig:
    """The ModelConfig of settings that are named as Llama's, `rest` being what a family says otherwise.

    kinds: one LayerConfig for each layer, or one for all.
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
    """The settings that `model` reads."""
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
    """Of models with one setting for all four projections of attention."""
    return {"qkv_bias": settings["attention_bias"], "out_bias": settings["attention_bias"]}


def shortest(kinds) -> tuple[LayerConfig, ...]:
    """The shortest pattern that repeats to these layers."""
    kinds = tuple(kinds)
    repeats = lambda size: all(kind == kinds[i % size] for i, kind in enumerate(kinds))
    return kinds[: next(size for size in range(1, len(kinds) + 1) if repeats(size))]


def layers(config: ModelConfig) -> list[LayerConfig]:
    """The kind of every layer, what it leaves open filled in."""
    kinds = config.kinds
    return [kinds[i % len(kinds)] for i in range(config.layers)]


def windowed(window: int | None, **rest) -> LayerConfig:
    """A layer that sees the last `window` tokens, itself included; None: all."""
    return LayerConfig(mask=f"causal & window({window})" if window else "", **rest)


def chunked(size: int | None, **rest) -> LayerConfig:
    """A layer that sees its own chunk of the sequence."""
    return LayerConfig(mask=f"causal & chunked({size})" if size else "", **rest)


def number_in(mask: str, call: str) -> int | None:
    """The number that a mask gives to window or chunked."""
    found = re.search(rf"{call}\((\d+)\)", mask)
    return int(found[1]) if found else None


def mixture(settings: Settings) -> dict:
    """The sizes of a mixture of experts, as fields of ModelConfig."""
    experts, chosen = settings["num_local_experts"], settings["num_experts_per_tok"]
    if not 1 <= chosen <= experts:
        raise UserError(f"config.json: num_experts_per_tok={chosen} must be from 1 to num_local_experts={experts}.")
    return {"experts": experts, "experts_per_token": chosen, "expert_mlp_dim": settings["intermediate_size"]}


def layer_types(settings: Settings, default, windows: str = SLIDING) -> list[str]:
    """The type of each layer, FULL or `windows`; default: that of layer i, where config.json has no list."""
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
    """For each layer how far back it sees, None: all the way. name: the setting that holds `size`."""
    if size is None and set(types) != {FULL}:
        raise UserError(f"config.json: {name} is null, and layers of type {(set(types) - {FULL}).pop()} need it.")
    return [None if kind == FULL else size for kind in types]


def every(interval: int):
    """Sliding layers, but for each interval-th."""
    return lambda i: SLIDING if (i + 1) % interval else FULL


def written_windows(config: ModelConfig) -> dict:
    """sliding_window and layer_types."""
    sizes = [number_in(layer.mask, "window") for layer in layers(config)]
    return {
        "sliding_window": next(filter(None, sizes), None),
        "layer_types": [SLIDING if size else FULL for size in sizes],
    }


def always_a_window(written: dict) -> dict:
    """Settings for an architecture whose mask transformers makes of sliding_window also where no layer has one: then a
    number that no layer reads and that hides nothing."""
    return written | {"sliding_window": written["sliding_window"] or written["max_position_embeddings"]}
