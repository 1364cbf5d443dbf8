"""Llama 4's text model: layers with chunked attention and RoPE, layers without RoPE and with a query scale, q and k
normed (l2), and in some layers a mixture of experts with a shared expert."""

import re

import numpy as np

from longctx.config import LayerConfig, ModelConfig
from longctx.errors import UserError
from longctx.hf import tensors
from longctx.hf.fields import shown
from longctx.hf.llama import rotating, written_rotating
from longctx.hf.rope import Dialect
from longctx.hf.settings import (
    CHUNKED,
    FULL,
    Settings,
    biases,
    chunked,
    layer_types,
    layers,
    mixture,
    model,
    number_in,
    sized,
    written,
)
from longctx.hf.tensors import Names, Piece

ROPE = Dialect(theta=500_000.0, pairing="interleaved")

_AT = "feed_forward"
_ATTENTION = tensors.NORMS | tensors.attention("self_attn")
DENSE: Names = _ATTENTION | tensors.gated("mlp", _AT)
EXPERTS: Names = (
    _ATTENTION
    | tensors.gated("mlp.shared", f"{_AT}.shared_expert")
    | {
        "mlp.router": Piece(f"{_AT}.router.weight", "E D -> D E"),
        "mlp.expert_gate": Piece(f"{_AT}.experts.gate_up_proj", "E D (P F) -> E D F", 2, 0),
        "mlp.expert_up": Piece(f"{_AT}.experts.gate_up_proj", "E D (P F) -> E D F", 2, 1),
        "mlp.expert_down": Piece(f"{_AT}.experts.down_proj", "E F D -> E F D"),
    }
)


def read(settings: Settings) -> ModelConfig:
    """The ModelConfig. Its mlp_dim is the shared expert's; dense layers have their own."""
    rotates = rotating(settings)
    size = settings["attention_chunk_size"]
    types = layer_types(settings, lambda i: CHUNKED if rotates[i] and size else FULL, CHUNKED)
    sizes, mixed = sized(types, "attention_chunk_size", size), _mixed(settings)
    tuned = f"llama4({settings['floor_scale']}, {np.format_float_positional(settings['attn_scale'], trim='-')})"
    query_scale = tuned if settings["attn_temperature_tuning"] else ""
    kinds = [
        chunked(
            sizes[i],
            position="" if rotates[i] else "nope",
            query_scale="" if rotates[i] else query_scale,
            **({"feed_forward": "llama4"} if i in mixed else {"mlp_dim": settings["intermediate_size_mlp"]}),
        )
        for i in range(settings["num_hidden_layers"])
    ]
    return model(
        settings,
        ROPE,
        kinds,
        qk_norm="l2" if settings["use_qk_norm"] else "none",
        **(_experts(settings) if mixed else {}),
        **biases(settings),
    )


def _mixed(settings: Settings) -> set[int]:
    """The indices of the layers with experts."""
    step, listed, count = settings["interleave_moe_layer_step"], settings["moe_layers"], settings["num_hidden_layers"]
    if listed is None and not step:
        raise UserError("config.json: interleave_moe_layer_step=0 needs moe_layers, the layers with experts.")
    return set(range(step - 1, count, step) if listed is None else listed) & set(range(count))


def _experts(settings: Settings) -> dict:
    """The ModelConfig fields of the mixture. Raises UserError for an activation that our experts do not have."""
    if settings["hidden_act"] not in ("silu", "swish"):
        raise UserError(
            f"config.json: {shown('hidden_act', settings['hidden_act'])} is not supported in layers with "
            "experts; 'silu' is."
        )
    return mixture(settings)


def write(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    kinds = layers(config)
    sizes = [number_in(layer.mask, "chunked") for layer in kinds]
    tuned = next((layer.query_scale for layer in kinds if layer.query_scale.startswith("llama4")), "")
    numbers = re.findall(r"[\d.]+", tuned.removeprefix("llama4"))
    settings = (
        written(config, ROPE, longest)
        | written_rotating(config)
        | {
            "attention_chunk_size": next(filter(None, sizes), None),
            "layer_types": [CHUNKED if size else FULL for size in sizes],
            "attn_temperature_tuning": bool(tuned),
            "use_qk_norm": config.qk_norm == "l2",
            "attention_bias": config.qkv_bias,
            "moe_layers": [i for i, layer in enumerate(kinds) if layer.feed_forward == "llama4"],
            "num_local_experts": config.experts or 1,
            "num_experts_per_tok": config.experts_per_token or 1,
            "intermediate_size_mlp": next(
                (layer.mlp_dim for layer in kinds if layer.feed_forward != "llama4"), config.mlp_dim
            ),
        }
    )
    return settings | ({"floor_scale": int(numbers[0]), "attn_scale": float(numbers[1])} if len(numbers) == 2 else {})


def block(config: ModelConfig, kind: LayerConfig) -> Names:
    """Names of the tensors in a layer, with experts or dense."""
    return EXPERTS if kind.feed_forward == "llama4" else DENSE
