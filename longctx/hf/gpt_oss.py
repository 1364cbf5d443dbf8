"""gpt-oss: learned sinks, a window in every other layer, YaRN, and a mixture of experts with biases."""

from longctx.config import ModelConfig
from longctx.hf import tensors
from longctx.hf.rope import Dialect
from longctx.hf.settings import (
    Settings,
    always_a_window,
    biases,
    every,
    layer_types,
    mixture,
    model,
    sized,
    windowed,
    written,
    written_windows,
)
from longctx.hf.tensors import Names, Piece

ROPE = Dialect(theta=150_000.0)
PUBLISHED = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}

_AT = "mlp.experts"
BLOCK: Names = (
    tensors.NORMS
    | tensors.attention("self_attn")
    | {
        "mlp.router": Piece("mlp.router.weight", "E D -> D E"),
        "mlp.router_bias": Piece("mlp.router.bias", "E -> E"),
        # the columns of gate and up take turns
        "mlp.expert_gate": Piece(f"{_AT}.gate_up_proj", "E D (F P) -> E D F", 2, 0),
        "mlp.expert_up": Piece(f"{_AT}.gate_up_proj", "E D (F P) -> E D F", 2, 1),
        "mlp.expert_gate_bias": Piece(f"{_AT}.gate_up_proj_bias", "E (F P) -> E F", 2, 0),
        "mlp.expert_up_bias": Piece(f"{_AT}.gate_up_proj_bias", "E (F P) -> E F", 2, 1),
        "mlp.expert_down": Piece(f"{_AT}.down_proj", "E F D -> E F D"),
        "mlp.expert_down_bias": Piece(f"{_AT}.down_proj_bias", "E D -> E D"),
    }
)


def read(settings: Settings) -> ModelConfig:
    """The ModelConfig of a config.json. Without a RoPE scaling, it has the published one."""
    if not (settings["rope_scaling"] or settings["rope_parameters"]):
        settings = Settings(settings, rope_scaling=PUBLISHED)
    types = layer_types(settings, every(2))
    kinds = list(map(windowed, sized(types, "sliding_window", settings["sliding_window"])))
    return model(
        settings,
        ROPE,
        kinds,
        feed_forward="gpt_oss",
        learned_sinks=True,
        mlp_bias=True,
        **mixture(settings),
        **biases(settings),
    )


def write(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    return always_a_window(written(config, ROPE, longest) | written_windows(config)) | {
        "attention_bias": config.qkv_bias,
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "intermediate_size": config.expert_mlp_dim or config.mlp_dim,
    }
