"""Phi-3 and Phi-4-mini: fused projections, LongRoPE over a part of each head."""

from longctx.config import ModelConfig
from longctx.hf import tensors
from longctx.hf.rope import Dialect
from longctx.hf.settings import Settings, layers, model, number_in, windowed, written
from longctx.hf.tensors import Names, Piece

ROPE = Dialect(share=1.0)


def read(settings: Settings) -> ModelConfig:
    """The ModelConfig. LongRoPE is called "su" or "yarn" in old files."""
    scaling = settings["rope_scaling"] or settings["rope_parameters"] or {}
    if "short_factor" in scaling and scaling.get("rope_type", scaling.get("type")) in ("su", "yarn"):
        settings = Settings(settings, rope_scaling=scaling | {"rope_type": "longrope"})
    return model(settings, ROPE, [windowed(settings["sliding_window"])])


def write(config: ModelConfig, longest: int) -> dict:
    """The settings, with rope_scaling for LongRoPE only and in the three names that version 4 of transformers takes."""
    settings = written(config, ROPE, longest) | {"sliding_window": number_in(layers(config)[0].mask, "window")}
    if config.rope.scaling != "longrope":
        settings["rope_scaling"] = None
    else:
        scaling, original = settings["rope_scaling"], config.rope.original_length
        scaling["type"] = scaling.pop("rope_type")
        scaling.pop("original_max_position_embeddings")
        if settings["max_position_embeddings"] / original == config.rope.factor:
            scaling.pop("factor")
    return settings


def block(config: ModelConfig, kind) -> Names:
    """Names of a layer's tensors; qkv_proj holds the heads of q, k and v, and gate_up_proj holds gate and up."""
    N, K = config.heads, config.kv_heads
    heads = lambda start, count: Piece(
        "self_attn.qkv_proj.weight", "(P H) D -> D P H", N + 2 * K, slice(start, start + count)
    )
    half = lambda part: Piece("mlp.gate_up_proj.weight", "(P F) D -> D F", 2, part)
    return tensors.LLAMA | {
        "attention.wq": heads(0, N),
        "attention.wk": heads(N, K),
        "attention.wv": heads(N + K, K),
        "mlp.gate": half(0),
        "mlp.up": half(1),
    }
