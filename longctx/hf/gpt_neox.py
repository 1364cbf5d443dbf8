"""GPT-NeoX and Pythia: LayerNorm with bias, both halves in parallel (or not), plain feed-forward, partial rotation."""

from longctx.config import ModelConfig
from longctx.hf.rope import Dialect
from longctx.hf.settings import Settings, biases, head_dim, model, only, written
from longctx.hf.tensors import Names, Piece

ROPE = Dialect(theta_name="rotary_emb_base", share=0.25, share_name="rotary_pct")

OUTSIDE: Names = {
    "embedding.table": Piece("gpt_neox.embed_in.weight", "V D -> V D"),
    "norm.scale": Piece("gpt_neox.final_layer_norm.weight"),
    "norm.bias": Piece("gpt_neox.final_layer_norm.bias"),
    "head": Piece("embed_out.weight", "V D -> D V"),
}


def _heads(axis: str, part: int) -> Names:
    """The query, key or value projection in query_key_value, which holds q, k and v of head 0, of head 1, ..."""
    at = "attention.query_key_value"
    return {
        f"attention.w{axis}": Piece(f"{at}.weight", "(N P H) D -> D N H", 3, part),
        f"attention.b{axis}": Piece(f"{at}.bias", "(N P H) -> N H", 3, part),
    }


BLOCK: Names = (
    _heads("q", 0)
    | _heads("k", 1)
    | _heads("v", 2)
    | {
        "attention_norm.scale": Piece("input_layernorm.weight"),
        "attention_norm.bias": Piece("input_layernorm.bias"),
        "mlp_norm.scale": Piece("post_attention_layernorm.weight"),
        "mlp_norm.bias": Piece("post_attention_layernorm.bias"),
        "attention.wo": Piece("attention.dense.weight", "D (N H) -> N H D"),
        "attention.bo": Piece("attention.dense.bias"),
        "mlp.up": Piece("mlp.dense_h_to_4h.weight", "F D -> D F"),
        "mlp.up_bias": Piece("mlp.dense_h_to_4h.bias", "F -> F"),
        "mlp.down": Piece("mlp.dense_4h_to_h.weight", "D F -> F D"),
        "mlp.down_bias": Piece("mlp.dense_4h_to_h.bias"),
    }
)


def read(settings: Settings) -> ModelConfig:
    """The ModelConfig. Raises UserError where a file also has Llama's name for a setting, with another value."""
    for name, value in (
        ("head_dim", head_dim(settings)),
        ("rope_theta", settings["rotary_emb_base"]),
        ("partial_rotary_factor", settings["rotary_pct"]),
    ):
        only(name, settings[name], value)
    return model(
        settings,
        ROPE,
        eps="layer_norm_eps",
        norm="layer_bias",
        feed_forward="plain",
        mlp_bias=True,
        block="parallel" if settings["use_parallel_residual"] else "sequential",
        **biases(settings),
    )


def write(config: ModelConfig, longest: int) -> dict:
    """The settings of a ModelConfig."""
    return written(config, ROPE, longest, eps="layer_norm_eps") | {
        "attention_bias": config.qkv_bias,
        "use_parallel_residual": config.block == "parallel",
    }
