"""What the architectures of GGUF files call their settings and tensors. Free of jax.

To add one: an entry in DIALECTS. Where llama.cpp's converter changes weights, `form` says how.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from longctx.errors import UserError, unknown_name
from longctx.hf.gguf.file import LLAMA_HEADS, PLAIN, PLUS_ONE, QUERIES_FIRST, Metadata, Tensor
from longctx.hf.tensors import Names, Piece

ROPE_FACTORS = "rope_freqs.weight"  # what divides each frequency: Llama 3.1's scaling, worked out
# LongRoPE's in short and in long rows
LONGROPE = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SANDWICH = BLOCK | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
FUSED = {name: theirs for name, theirs in BLOCK.items() if name not in ("attn_q", "attn_k", "attn_v", "ffn_gate")} | {
    "attn_qkv": "self_attn.qkv_proj",
    "ffn_up": "mlp.gate_up_proj",
}
NEOX_OUTSIDE = {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"}
NEOX = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
_OF_EXPERTS = {"gate": "E F D -> E D F", "up": "E F D -> E D F", "down": "E D F -> E F D"}
GPT_OSS = {name: theirs for name, theirs in BLOCK.items() if not name.startswith("ffn")} | {
    "attn_sinks": "self_attn.sinks",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.router",
    **{f"ffn_{name}_exps": f"mlp.experts.{name}_proj" for name in _OF_EXPERTS},
}
# gate and up apart, outputs before inputs
GPT_OSS_PIECES: Names = {"attention.sinks": Piece("self_attn.sinks.weight", "N -> N")} | {
    f"mlp.expert_{name}{ours}": Piece(f"mlp.experts.{name}_proj.{theirs}", form)
    for name, matrix in _OF_EXPERTS.items()
    for ours, theirs, form in (("", "weight", matrix), ("_bias", "bias", "E D -> E D"))
}
SIZES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
# keys that change no number, or that `settings` compares with others
KNOWN = {
    *SIZES.values(),
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "vocab_size",
}


_YARN = {
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}


@dataclasses.dataclass(frozen=True)
class Dialect:
    """An architecture of GGUF files.

    Attributes:
      model_type: of config.json.
      block: the module of Hugging Face for each of a layer's tensors.
      more: a Part of the metadata -> further settings.
      known: further keys under the architecture's name, which `more` reads or which change no number.
      outside, at: the modules outside of layers, and the prefix of layers.
      forms: the form, see Tensor, of some of a layer's tensors.
      norms_plus_one: the weights of norms lie as Tensor's "plus_one".
      pieces: the places of a layer's weights that lie in tensors otherwise than in Hugging Face's.
    """

    model_type: str
    block: dict[str, str] = dataclasses.field(default_factory=lambda: BLOCK)
    more: Callable[["Part"], dict] = lambda part: {}
    known: tuple[str, ...] = ()
    outside: dict[str, str] = dataclasses.field(default_factory=lambda: OUTSIDE)
    at: str = "model.layers"
    forms: dict[str, str] = dataclasses.field(default_factory=dict)
    norms_plus_one: bool = False
    pieces: Names = dataclasses.field(default_factory=dict)


def number(stored: float) -> float:
    """A number as it was before it was rounded to float32: 1e-05, not 9.99999974738e-06."""
    return float(str(np.float32(stored)))


class Part:
    """The metadata under an architecture's name."""

    def __init__(self, metadata: Metadata, name: str):
        self.metadata, self.name = metadata, name

    def __getitem__(self, key: str):
        return self.metadata[f"{self.name}.{key}"]

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"{self.name}.{key}", default)

    def size(self, key: str) -> int:
        """A whole number. Raises UserError where layers differ in it, which no Dialect has."""
        value = self[key]
        if not isinstance(value, int):
            raise UserError(f"{self.metadata.path}: {self.name}.{key}={value!r} must be one number for all layers.")
        return value

    def number(self, key: str, default: float) -> float:
        """A number as it was before it was rounded to float32."""
        return number(self.get(key, default))

    @property
    def key_heads(self) -> int:
        given = self.get("attention.head_count_kv") is not None
        return self.size("attention.head_count_kv" if given else "attention.head_count")

    @property
    def head_dim(self) -> int:
        return self.get("attention.key_length") or self.size("embedding_length") // self.size("attention.head_count")


def _gemma(part: Part, large: int) -> dict:
    """Settings of Gemma 2 and 3; large: the layers of the one model whose scores have another scale than its heads'."""
    by_width = part.size("embedding_length") // part.size("attention.head_count")
    return {
        "sliding_window": part.size("attention.sliding_window"),
        "query_pre_attn_scalar": by_width if part.size("block_count") == large else part.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": part.get("final_logit_softcapping"),
    }


def _gemma2(part: Part) -> dict:
    return _gemma(part, large=46) | {"attn_logit_softcapping": part.get("attn_logit_softcapping")}


def _gemma3(part: Part) -> dict:
    return _gemma(part, large=62) | {"rope_local_base_freq": part.number("rope.freq_base_swa", 10_000.0)}


def _phi3(part: Part) -> dict:
    """Settings of Phi-3: LongRoPE over a part of each head, and a window where there is one."""
    return {
        "sliding_window": part.get("attention.sliding_window") or None,
        "partial_rotary_factor": part.get("rope.dimension_count", part.head_dim) / part.head_dim,
        "original_max_position_embeddings": part.get("rope.scaling.original_context_length")
        or part.size("context_length"),
    }


def _gpt_neox(part: Part) -> dict:
    """Settings of GPT-NeoX; null: what Llama alone has."""
    return {
        "rms_norm_eps": None,
        "layer_norm_eps": part.number("attention.layer_norm_epsilon", 1e-5),
        "rotary_emb_base": part.number("rope.freq_base", 10_000.0),
        "rotary_pct": part.get("rope.dimension_count", part.head_dim) / part.head_dim,
        "use_parallel_residual": part.get("use_parallel_residual", True),
    }


def _gpt_oss(part: Part) -> dict:
    """Settings of gpt-oss, whose YaRN is always there. Files do not say that its range of frequencies is not rounded to
    whole ones, as the model was trained and config.json has it."""
    scaling = _rope_scaling(part, {}) or {}
    if scaling.get("rope_type") != "yarn":
        kind = part.get("rope.scaling.type", "none")
        raise UserError(f"{part.metadata.path}: {part.name}.rope.scaling.type={kind!r} is not supported; 'yarn' is.")
    return {
        "rope_scaling": scaling | {"truncate": False},
        "sliding_window": part.size("attention.sliding_window"),
        "num_local_experts": part.size("expert_count"),
        "num_experts_per_tok": part.size("expert_used_count"),
        "intermediate_size": part.get("expert_feed_forward_length") or part.size("feed_forward_length"),
    }


PAIRED = {"attn_q": LLAMA_HEADS, "attn_k": LLAMA_HEADS}
_WINDOWS = "attention.sliding_window", "final_logit_softcapping"
DIALECTS = {
    "llama": Dialect("llama", forms=PAIRED),
    "qwen2": Dialect("qwen2"),
    "qwen3": Dialect("qwen3"),
    "gemma2": Dialect("gemma2", SANDWICH, _gemma2, (*_WINDOWS, "attn_logit_softcapping"), norms_plus_one=True),
    "phi3": Dialect(
        "phi3", FUSED, _phi3, ("attention.sliding_window", "rope.dimension_count", "rope.scaling.attn_factor")
    ),
    "smollm3": Dialect("smollm3", forms=PAIRED),
    "gptneox": Dialect(
        "gpt_neox",
        NEOX,
        _gpt_neox,
        ("attention.layer_norm_epsilon", "use_parallel_residual", "rope.dimension_count"),
        outside=NEOX_OUTSIDE,
        at="gpt_neox.layers",
        forms={"attn_qkv": QUERIES_FIRST},
    ),
    "gpt-oss": Dialect(
        "gpt_oss",
        GPT_OSS,
        _gpt_oss,
        ("attention.sliding_window", "expert_count", "expert_used_count", "expert_feed_forward_length"),
        pieces=GPT_OSS_PIECES,
    ),
    "gemma3": Dialect("gemma3_text", SANDWICH, _gemma3, (*_WINDOWS, "rope.freq_base_swa"), norms_plus_one=True),
}


def of(metadata: Metadata) -> Dialect:
    """The Dialect of a file. Raises UserError for an architecture that is not known."""
    name = metadata["general.architecture"]
    if name not in DIALECTS:
        raise unknown_name(f"{metadata.path}: general.architecture", name, DIALECTS)
    return DIALECTS[name]


def settings(metadata: Metadata, stored: dict[str, Tensor]) -> dict:
    """The content of config.json, without special tokens.

    stored: the file's tensors. Raises UserError for an architecture or a setting that is not known.
    """
    name, dialect = metadata["general.architecture"], of(metadata)
    part = Part(metadata, name)
    for key, value in metadata.items():
        own = key.removeprefix(f"{name}.")
        if own != key and value and own not in KNOWN and own not in dialect.known:
            raise UserError(f"{metadata.path}: {key}={value!r} is not known to longctx for this architecture.")
    for key in ("rope.dimension_count", "attention.value_length"):
        if key not in dialect.known and part.get(key, part.head_dim) != part.head_dim:
            raise UserError(f"{metadata.path}: {name}.{key}={part[key]} is not supported; {part.head_dim} is.")
    if "token_embd.weight" not in stored:
        raise UserError(f"{metadata.path} has no tensor token_embd.weight.")
    table = stored["token_embd.weight"]
    return (
        {"model_type": dialect.model_type, "torch_dtype": table.dtype.name, "vocab_size": table.shape[0]}
        | {theirs: part.size(key) for theirs, key in SIZES.items()}
        | {
            "num_key_value_heads": part.key_heads,
            "head_dim": part.head_dim,
            "rms_norm_eps": part.number("attention.layer_norm_rms_epsilon", 1e-6),
            "rope_theta": part.number("rope.freq_base", 10_000.0),
            "rope_scaling": _rope_scaling(part, stored),
            "tie_word_embeddings": "output.weight" not in stored,
        }
        | dialect.more(part)
    )


def _rope_scaling(part: Part, stored: dict[str, Tensor]) -> dict | None:
    """rope_scaling of config.json. Factors of frequencies are LongRoPE's, whose cos and sin are not scaled then."""
    kind, path = part.get("rope.scaling.type", "none"), part.metadata.path
    if ROPE_FACTORS in stored:
        if kind != "none":
            raise UserError(f"{path}: {ROPE_FACTORS} and rope.scaling.type={kind!r} together are not known to longctx.")
        factors = [float(factor) for factor in stored[ROPE_FACTORS].view()]
        original = {"original_max_position_embeddings": part.size("context_length"), "attention_factor": 1.0}
        return {"rope_type": "longrope", "short_factor": factors, "long_factor": factors} | original
    if LONGROPE["long_factor"] in stored:
        return {"rope_type": "longrope"} | _longrope(part, stored)
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise unknown_name(f"{path}: rope.scaling.type", kind, ("none", "linear", "yarn"))
    scaling = {"rope_type": kind, "factor": float(part["rope.scaling.factor"])}
    numbers = _YARN if kind == "yarn" else {}
    return scaling | {theirs: part[key] for theirs, key in numbers.items() if part.get(key)}


def _longrope(part: Part, stored: dict[str, Tensor]) -> dict:
    """The numbers of LongRoPE. Raises UserError where one of its two tensors is missing."""
    if missing := [name for name in LONGROPE.values() if name not in stored]:
        raise UserError(f"{part.metadata.path} has no tensor {missing[0]}, which its other factors come with.")
    numbers = {theirs: [number(factor) for factor in stored[name].view()] for theirs, name in LONGROPE.items()}
    given = part.get("rope.scaling.attn_factor")
    return numbers | ({} if given is None else {"attention_factor": number(given)})


def renamed(metadata: Metadata, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the names that Hugging Face has for them, in the forms that the dialect says.

    Raises UserError for a tensor that the dialect does not have.
    """
    dialect, part = of(metadata), Part(metadata, metadata["general.architecture"])
    heads = {"attn_k": part.key_heads} | dict.fromkeys(("attn_q", "attn_qkv"), part.size("attention.head_count"))
    found = {}
    for name, tensor in stored.items():
        if name in (ROPE_FACTORS, *LONGROPE.values()):
            continue
        stem, _, kind = name.rpartition(".")
        match = re.match(r"blk\.(\d+)\.", stem)
        layer, own = (match[1], stem[match.end() :]) if match else (None, stem)
        theirs = (dialect.outside if layer is None else dialect.block).get(own)
        if theirs is None or kind not in ("weight", "bias"):
            raise UserError(f"{metadata.path}: the tensor {name} is not known to longctx for this architecture.")
        form = PLUS_ONE if dialect.norms_plus_one and own.endswith("norm") else dialect.forms.get(own, PLAIN)
        at = "" if layer is None else f"{dialect.at}.{layer}."
        found[f"{at}{theirs}.{kind}"] = dataclasses.replace(tensor, form=form, heads=heads.get(own, 0))
    return found
