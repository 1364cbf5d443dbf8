"""The Hugging Face architectures that a ModelConfig can express. To add one: an entry here, a file for its specifics.

Free of jax.
"""

import dataclasses
from collections.abc import Callable

from longctx.config import LayerConfig, ModelConfig
from longctx.errors import UserError
from longctx.hf import cohere2, gemma, gpt_neox, gpt_oss, llama, llama4, phi3, rope
from longctx.hf.settings import Settings, checked, layers
from longctx.hf.tensors import LLAMA, OUTSIDE, Names, blocks


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The settings and tensors of a model_type.

    Attributes:
      class_name: transformers' class, for config.json.
      read: settings -> ModelConfig.
      write: ModelConfig, longest length in tokens (0: the RoPE's) -> settings.
      defaults: every setting that `read` uses beside settings.REQUIRED, with transformers' default.
      fixed, harmless: see settings.checked.
      outside: names of the tensors outside of layers.
      block: names of the tensors in a layer, or ModelConfig, LayerConfig -> these names where layers differ.
      at: the prefix of layers in tensor names.
    """

    class_name: str
    read: Callable[[Settings], ModelConfig]
    write: Callable[[ModelConfig, int], dict]
    defaults: dict
    fixed: dict = dataclasses.field(default_factory=dict)
    harmless: tuple[str, ...] = ()
    outside: Names = dataclasses.field(default_factory=lambda: OUTSIDE)
    block: Names | Callable[[ModelConfig, LayerConfig], Names] = dataclasses.field(default_factory=lambda: LLAMA)
    at: str = "model.layers"

    def settings(self, content: dict) -> Settings:
        """The checked settings of a config.json's content, see settings.checked."""
        return checked(content, self.defaults, self.fixed, self.harmless)

    def layer(self, config: ModelConfig, kind: LayerConfig) -> Names:
        """The names of all tensors in a layer of a kind, {layer} standing for its number."""
        return blocks(self.block(config, kind) if callable(self.block) else self.block, self.at)


_ROPE = {
    "max_position_embeddings": 2048,
    "original_max_position_embeddings": None,
    "rope_theta": None,
    "rope_scaling": None,
    "rope_parameters": None,
    "partial_rotary_factor": None,
}
COMMON = _ROPE | {"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False}
_LLAMA = COMMON | {"hidden_act": "silu", "rms_norm_eps": 1e-6}
_BIASES = {"attention_bias": False, "mlp_bias": False}
_WINDOWS = {"sliding_window": 4096, "layer_types": None}
_QWEN = _LLAMA | _WINDOWS | {"use_sliding_window": False, "max_window_layers": 28, "max_position_embeddings": 32768}
_SMOLLM3 = (
    _LLAMA
    | _BIASES
    | {
        "sliding_window": None,
        "layer_types": None,
        "use_sliding_window": False,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    }
)
_GEMMA = (
    COMMON
    | _WINDOWS
    | {
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "final_logit_softcapping": None,
    }
)
_GPT_NEOX = _ROPE | {
    "head_dim": None,
    "tie_word_embeddings": False,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 10_000.0,
    "rotary_pct": 0.25,
    "attention_bias": True,
    "use_parallel_residual": True,
}
_LLAMA4 = _LLAMA | {
    "rms_norm_eps": 1e-5,
    "head_dim": 128,
    "attention_bias": False,
    "use_qk_norm": True,
    "attention_chunk_size": 8192,
    "layer_types": None,
    "no_rope_layers": None,
    "no_rope_layer_interval": 4,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "moe_layers": None,
    "interleave_moe_layer_step": 1,
    "intermediate_size_mlp": 16384,
    "max_position_embeddings": 4096 * 32,
}

ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", llama.read_llama, llama.write_llama, _LLAMA | _BIASES),
    "qwen3": Architecture(
        "Qwen3ForCausalLM", llama.read_qwen3, llama.write_qwen3, _QWEN | {"head_dim": 128, "attention_bias": False}
    ),
    "qwen2": Architecture("Qwen2ForCausalLM", llama.read_qwen2, llama.write_qwen2, _QWEN),
    "mistral": Architecture(
        "MistralForCausalLM",
        llama.read_mistral,
        llama.write_mistral,
        _LLAMA | _WINDOWS | {"max_position_embeddings": 4096 * 32},
    ),
    "smollm3": Architecture(
        "SmolLM3ForCausalLM", llama.read_smollm3, llama.write_smollm3, _SMOLLM3, harmless=("max_window_layers",)
    ),
    "gemma2": Architecture(
        "Gemma2ForCausalLM",
        gemma.read_gemma2,
        gemma.write_gemma2,
        _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "max_position_embeddings": 8192},
        harmless=("hidden_act", "sliding_window_size"),
        block=gemma.BLOCK,
    ),
    "gemma3_text": Architecture(
        "Gemma3ForCausalLM",
        gemma.read_gemma3,
        gemma.write_gemma3,
        _GEMMA | {"sliding_window_pattern": 6, "rope_local_base_freq": None, "max_position_embeddings": 131072},
        harmless=("hidden_act", "_sliding_window_pattern"),
        block=gemma.BLOCK,
    ),
    "phi3": Architecture(
        "Phi3ForCausalLM",
        phi3.read,
        phi3.write,
        _LLAMA
        | {
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        },
        {"full_attn_mod": 1, "interpolate_factor": 1},
        block=phi3.block,
    ),
    "cohere2": Architecture(
        "Cohere2ForCausalLM",
        cohere2.read,
        cohere2.write,
        COMMON
        | _WINDOWS
        | {
            "hidden_act": "silu",
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.0625,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "sliding_window_pattern": 4,
            "max_position_embeddings": 8192,
        },
        {
            "position_embedding_type": "rope_gptj",
            "rotary_pct": 1.0,
            "use_gated_activation": True,
            "use_parallel_block": True,
            "use_qk_norm": False,
            "layer_switch": 4,
            "order_of_interleaved_layers": "local_attn_first",
        },
        ("use_embedding_sharing", "use_parallel_embedding"),
    ),
    "gpt_neox": Architecture(
        "GPTNeoXForCausalLM",
        gpt_neox.read,
        gpt_neox.write,
        _GPT_NEOX,
        outside=gpt_neox.OUTSIDE,
        harmless=("num_key_value_heads",),
        block=gpt_neox.BLOCK,
        at="gpt_neox.layers",
    ),
    "gpt_oss": Architecture(
        "GptOssForCausalLM",
        gpt_oss.read,
        gpt_oss.write,
        _LLAMA
        | _WINDOWS
        | {
            "rms_norm_eps": 1e-5,
            "head_dim": 64,
            "sliding_window": 128,
            "attention_bias": True,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "max_position_embeddings": 131072,
        },
        {"swiglu_alpha": 1.702, "swiglu_limit": 7.0},
        ("experts_per_token", "initial_context_length"),
        block=gpt_oss.BLOCK,
    ),
    "llama4_text": Architecture("Llama4ForCausalLM", llama4.read, llama4.write, _LLAMA4, block=llama4.block),
}
# without these transformers takes the ids of the architecture's first model
_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
# settings of training and of arithmetic, which no config.json holds; and fields that are compared layer by layer
_NOT_IN_FILE = {"dtype", "param_dtype", "remat", "embedding_std", "lora"}
_BY_LAYER = {"mask", "position", "query_scale", "feed_forward", "mlp_dim", "pattern"}


def express(config: ModelConfig, longest: int = 0) -> tuple[str, dict, ModelConfig]:
    """(model_type, settings, expressed): an architecture that can express `config`, and the config read back from it.

    embedding_scale of `expressed` may be 1 where that of `config` is not: the embeddings must then be multiplied.

    Raises:
      UserError: where no architecture can; the message names what the nearest one lacks.
    """
    nearest = refused = None
    for candidate in explicit(config), dataclasses.replace(explicit(config), embedding_scale=1.0):
        for model_type, architecture in ARCHITECTURES.items():
            settings = architecture.write(candidate, longest)
            try:
                missing = differences(candidate, architecture.read(architecture.settings(settings)))
            except UserError as error:  # the architecture cannot read its own settings back
                refused = error
                continue
            if not missing:
                header = {"architectures": [architecture.class_name], "model_type": model_type} | _NO_TOKENS
                return model_type, header | settings, candidate
            if nearest is None or len(missing) < len(nearest[1]):
                nearest = model_type, missing
    if nearest is None:
        raise refused
    raise UserError(f"no architecture of Hugging Face has {', '.join(nearest[1])}; the nearest is {nearest[0]}.")


def explicit(config: ModelConfig) -> ModelConfig:
    """A config equal in effect, with defaults that depend on other fields filled in and RoPE as config.json has it."""
    return dataclasses.replace(
        config,
        rope=rope.plain(config.rope, config.head_dim),
        embedding_scale=config.embedding_scale or 1 / (config.embedding_std or config.d_model**-0.5),
        attention_scale=config.attention_scale or config.head_dim**-0.5,
    )


def differences(wanted: ModelConfig, actual: ModelConfig) -> list[str]:
    """The settings of `wanted` that differ from those of `actual`: ["model.position='alibi'", ...]."""
    wanted, actual = explicit(wanted), explicit(actual)
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in _NOT_IN_FILE | _BY_LAYER]
    differing = {name: getattr(wanted, name) for name in names if getattr(wanted, name) != getattr(actual, name)}
    if wanted.layers == actual.layers:
        for layer, other in zip(_explicit_layers(wanted), _explicit_layers(actual), strict=True):
            differing |= {name: value for name, value in layer.items() if value != other[name]}
    return [f"model.{name}={value!r}" for name, value in differing.items()]


def _explicit_layers(config: ModelConfig) -> list[dict]:
    """The fields of every layer's LayerConfig, in forms that can be compared."""
    return [
        vars(kind) | {"mask": kind.mask.replace(" ", ""), "rope": kind.rope and rope.plain(kind.rope, config.head_dim)}
        for kind in layers(config)
    ]
