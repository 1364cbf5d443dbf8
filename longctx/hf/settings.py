"""What the config.json of every family says in the same way, and ModelConfig: both directions.

A family's `read` makes a ModelConfig of settings, its `write` settings of a ModelConfig. `write` may leave out what it
has no words for: architectures.expressing reads the result back and compares.
"""
import re

from longctx.config import LayerConfig, ModelConfig
from longctx.errors import UserError, unknown_name
from longctx.hf import rope as ropes

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
               "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh"}
DTYPES = ("float32", "bfloat16", "float16")
SIZES = {"vocab_size": "vocab_size", "hidden_size": "embed", "num_hidden_layers": "layers", "intermediate_size": "mlp",
         "num_attention_heads": "heads", "num_key_value_heads": "key_heads", "head_dim": "head_size"}
ALIKE = (LayerConfig(),)                # all layers as the model says
FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


class Settings(dict):
    """The settings of a config.json. One that is asked for and missing is a UserError."""

    def __missing__(self, name):
        raise UserError(f"config.json has no {name!r}.")


def model(settings: Settings, dialect: ropes.Dialect, kinds=ALIKE, activation: str = "hidden_act",
          **rest) -> ModelConfig:
    """The ModelConfig of settings that are named as Llama's, `rest` being what a family says otherwise.

    kinds: one LayerConfig for each layer, or one for all.
    """
    heads = settings["num_attention_heads"]
    derived = {"num_key_value_heads": heads, "head_dim": settings["hidden_size"] // heads}
    sizes = {ours: settings.get(theirs) or derived.get(theirs) or settings[theirs] for theirs, ours in SIZES.items()}
    for theirs, ours in SIZES.items():
        if type(sizes[ours]) is not int or sizes[ours] < 1:
            raise UserError(f"config.json: {theirs}={sizes[ours]!r} must be a whole number from 1 on.")
    name = settings[activation]
    if name not in ACTIVATIONS:
        raise unknown_name(f"config.json: {activation}", name, ACTIVATIONS)
    fields = sizes | {
        "tied_head": bool(settings["tie_word_embeddings"]), "activation": ACTIVATIONS[name], "embedding_scale": 1.0,
        "rope": ropes.read(settings, dialect), "pattern": shortest(kinds)}
    if "norm_eps" not in rest:
        fields["norm_eps"] = settings["rms_norm_eps"]
    return ModelConfig(**fields | rest)


def written(config: ModelConfig, dialect: ropes.Dialect, longest: int, activation: str = "hidden_act") -> dict:
    """The settings that `model` reads."""
    return {theirs: getattr(config, ours) for theirs, ours in SIZES.items()} | {
        "tie_word_embeddings": config.tied_head, "rms_norm_eps": config.norm_eps,
        activation: next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        } | ropes.write(config.rope, dialect, longest)


def biases(settings: Settings) -> dict:
    """Of models with one setting for all four projections of attention."""
    return {"qkv_bias": bool(settings["attention_bias"]), "out_bias": bool(settings["attention_bias"])}


def only(settings: Settings, **supported) -> None:
    """UserError for a setting that has another value than the one that is known here; null and none are that one."""
    for name, value in supported.items():
        if settings.get(name) not in (None, value):
            raise UserError(f"config.json: {name}={settings[name]!r} is not supported; {value!r} is.")


def shortest(kinds) -> tuple[LayerConfig, ...]:
    """The shortest pattern that repeats to these layers."""
    kinds = tuple(kinds)
    repeats = lambda size: all(kind == kinds[i % size] for i, kind in enumerate(kinds))
    return kinds[:next(size for size in range(1, len(kinds) + 1) if repeats(size))]


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


def layer_types(settings: Settings, default) -> list[str]:
    """Of each layer; default: of layer i, where config.json has no list."""
    count = settings["num_hidden_layers"]
    types = settings.get("layer_types") or [default(i) for i in range(count)]
    for kind in types:
        if kind not in (FULL, SLIDING, CHUNKED):
            raise unknown_name("config.json: layer_types", kind, (FULL, SLIDING, CHUNKED))
    if len(types) < count:
        raise UserError(f"config.json: layer_types names {len(types)} layers of {count}.")
    return types[:count]


def every(interval: int):
    """Sliding layers, but for each interval-th."""
    return lambda i: SLIDING if (i + 1) % interval else FULL


def written_windows(config: ModelConfig) -> dict:
    """sliding_window and layer_types."""
    sizes = [number_in(layer.mask, "window") for layer in layers(config)]
    return {"sliding_window": next(filter(None, sizes), None),
            "layer_types": [SLIDING if size else FULL for size in sizes]}


def always_a_window(written: dict) -> dict:
    """Settings for an architecture whose mask transformers makes of sliding_window also where no layer has one: then a
    number that no layer reads and that hides nothing."""
    return written | {"sliding_window": written["sliding_window"] or written["max_position_embeddings"]}
