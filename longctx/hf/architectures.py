"""The architectures of Hugging Face that a ModelConfig can say. To add one: a line here, a file for what is its own.

Free of jax.
"""
import dataclasses
from collections.abc import Callable

from longctx.config import LayerConfig, ModelConfig
from longctx.errors import UserError
from longctx.hf import cohere2, gemma, gpt_neox, gpt_oss, llama, llama4, phi3, rope, tensors
from longctx.hf.settings import Settings, layers
from longctx.hf.tensors import OUTSIDE, Names


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a model_type means.

    Attributes:
      class_name: transformers' class, for config.json.
      read: settings -> ModelConfig.
      write: ModelConfig, longest length in tokens (0: the RoPE's) -> settings.
      defaults: what config.json may leave out and transformers fills in.
      outside, block: the tensors outside of layers, and in a layer of a kind; `at` is where layers are.
    """
    class_name: str
    read: Callable[[Settings], ModelConfig]
    write: Callable[[ModelConfig, int], dict]
    defaults: dict
    outside: Names = dataclasses.field(default_factory=lambda: OUTSIDE)
    block: Callable[[ModelConfig, LayerConfig], Names] = lambda config, kind: tensors.LLAMA
    at: str = "model.layers"

    def settings(self, content: dict) -> Settings:
        return Settings(COMMON | self.defaults | content)


COMMON = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_bias": False,
          "mlp_bias": False, "sliding_window": None, "use_sliding_window": False, "max_position_embeddings": 2048}
_QWEN = {"sliding_window": 4096, "max_window_layers": 28, "max_position_embeddings": 32768}
_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "query_pre_attn_scalar": 256,
          "sliding_window": 4096, "tie_word_embeddings": True, "attn_logit_softcapping": None,
          "final_logit_softcapping": None}

ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", llama.read_llama, llama.write_llama, {}),
    "qwen3": Architecture("Qwen3ForCausalLM", llama.read_qwen3, llama.write_qwen3, _QWEN | {"head_dim": 128}),
    "qwen2": Architecture("Qwen2ForCausalLM", llama.read_qwen2, llama.write_qwen2, _QWEN),
    "mistral": Architecture("MistralForCausalLM", llama.read_mistral, llama.write_mistral,
                            {"sliding_window": 4096, "max_position_embeddings": 4096 * 32}),
    "smollm3": Architecture("SmolLM3ForCausalLM", llama.read_smollm3, llama.write_smollm3,
                            {"tie_word_embeddings": True, "no_rope_layer_interval": 4,
                             "max_position_embeddings": 32768}),
    "gemma2": Architecture("Gemma2ForCausalLM", gemma.read_gemma2, gemma.write_gemma2,
                           _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
                                     "max_position_embeddings": 8192}, block=lambda config, kind: gemma.BLOCK),
    "gemma3_text": Architecture("Gemma3ForCausalLM", gemma.read_gemma3, gemma.write_gemma3,
                                _GEMMA | {"sliding_window_pattern": 6, "max_position_embeddings": 131072},
                                block=lambda config, kind: gemma.BLOCK),
    "phi3": Architecture("Phi3ForCausalLM", phi3.read, phi3.write,
                         {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
                          "original_max_position_embeddings": 4096}, block=phi3.block),
    "cohere2": Architecture("Cohere2ForCausalLM", cohere2.read, cohere2.write,
                            {"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "tie_word_embeddings": True,
                             "sliding_window": 4096, "sliding_window_pattern": 4, "max_position_embeddings": 8192}),
    "gpt_neox": Architecture("GPTNeoXForCausalLM", gpt_neox.read, gpt_neox.write,
                             {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": True,
                              "attention_bias": True}, gpt_neox.OUTSIDE, lambda config, kind: gpt_neox.BLOCK,
                             "gpt_neox.layers"),
    "gpt_oss": Architecture("GptOssForCausalLM", gpt_oss.read, gpt_oss.write,
                            {"rms_norm_eps": 1e-5, "head_dim": 64, "sliding_window": 128, "attention_bias": True,
                             "max_position_embeddings": 131072}, block=lambda config, kind: gpt_oss.BLOCK),
    "llama4_text": Architecture("Llama4ForCausalLM", llama4.read, llama4.write,
                                {"rms_norm_eps": 1e-5, "head_dim": 128, "no_rope_layer_interval": 4,
                                 "interleave_moe_layer_step": 1, "use_qk_norm": True, "attention_chunk_size": 8192,
                                 "attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1,
                                 "max_position_embeddings": 4096 * 32}, block=llama4.block),
}
# else transformers takes those of the architecture's first model
_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
# settings of training and of arithmetic, which no config.json says; and what every layer is compared in
_UNSAID = {"dtype", "param_dtype", "remat", "embedding_std"}
_OF_LAYERS = {"mask", "position", "temperature", "feed_forward", "mlp", "pattern"}


def express(config: ModelConfig, longest: int = 0) -> tuple[str, dict, ModelConfig]:
    """A model_type that says `config`, its settings, and `config` as these are read again.

    The result's embedding_scale may be 1 where that of `config` is not: the embeddings are then to be multiplied.

    Raises:
      UserError: where there is none; it names what the nearest cannot say.
    """
    nearest = None
    for candidate in explicit(config), dataclasses.replace(explicit(config), embedding_scale=1.0):
        for model_type, architecture in ARCHITECTURES.items():
            settings = architecture.write(candidate, longest)
            missing = differences(candidate, architecture.read(architecture.settings(settings)))
            if not missing:
                about = {"architectures": [architecture.class_name], "model_type": model_type} | _NO_TOKENS
                return model_type, about | settings, candidate
            if nearest is None or len(missing) < len(nearest[1]):
                nearest = model_type, missing
    raise UserError(f"no architecture of Hugging Face has {', '.join(nearest[1])}; the nearest is {nearest[0]}.")


def explicit(config: ModelConfig) -> ModelConfig:
    """The same model, defaults that depend on other settings spelled out, and RoPE as config.json can say it."""
    return dataclasses.replace(
        config, rope=rope.plain(config.rope, config.head_size),
        embedding_scale=config.embedding_scale or 1 / (config.embedding_std or config.embed ** -0.5),
        attention_scale=config.attention_scale or config.head_size ** -0.5)


def differences(wanted: ModelConfig, found: ModelConfig) -> list[str]:
    """The settings in which two models differ, as the first has them: "model.position='alibi'"."""
    wanted, found = explicit(wanted), explicit(found)
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in _UNSAID | _OF_LAYERS]
    differing = {name: getattr(wanted, name) for name in names if getattr(wanted, name) != getattr(found, name)}
    if wanted.layers == found.layers:
        for mine, theirs in zip(_spelled_out(wanted), _spelled_out(found), strict=True):
            differing |= {name: value for name, value in mine.items() if value != theirs[name]}
    return [f"model.{name}={value!r}" for name, value in differing.items()]


def _spelled_out(config: ModelConfig) -> list[dict]:
    return [vars(kind) | {"mask": kind.mask.replace(" ", ""),
                          "rope": kind.rope and rope.plain(kind.rope, config.head_size)} for kind in layers(config)]
