"""The settings of config.json: the values each may have, and the settings that change no number. Free of jax.

Every setting is checked before an architecture reads it. One that is in neither list is refused by name: it may be part
of the model, and passing over it would give other numbers without a word.
"""

import dataclasses
import reprlib
from collections.abc import Callable

from longctx.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_LARGEST = 1e30  # of numbers: no float32 overflows on the way


@dataclasses.dataclass(frozen=True)
class Kind:
    """A condition on a value: in words, and as a test `fits`."""

    words: str
    fits: Callable[[object], bool]

    def check(self, name: str, value, where: str = "config.json: ") -> None:
        """Raises UserError for a value that does not fit; `where`, the place of the setting, starts the message."""
        if not self.fits(value):
            raise UserError(f"{where}{shown(name, value)} must be {self.words}.")


def shown(name: str, value) -> str:
    """A setting as messages show it, "name=value" with a long value shortened to one line."""
    return f"{name}={_SHORT.repr(value)}"


def _whole(least: int, most: int = 2**31 - 1) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def _number(words: str, fits: Callable[[float], bool]) -> Kind:
    """A finite number for which `fits` holds; True and False are not numbers."""
    return Kind(
        f"a number {words}",
        lambda value: type(value) in (int, float) and -_LARGEST <= value <= _LARGEST and fits(value),
    )


def _list(words: str, item: Callable[[object], bool]) -> Kind:
    return Kind(f"a list of {words}", lambda value: isinstance(value, list | tuple) and all(map(item, value)))


def optional(kind: Kind) -> Kind:
    """A kind that also allows null."""
    return Kind(f"{kind.words}, or null", lambda value: value is None or kind.fits(value))


SIZE, COUNT, LAYERS = _whole(1), _whole(0), _whole(1, 10_000)
POSITIVE = _number("above 0", lambda value: value > 1e-30)
NOT_NEGATIVE = _number("from 0 on", lambda value: value >= 0)
BASE = _number("above 1", lambda value: value > 1)
SHARE = _number("from 0 to 1", lambda value: 0 <= value <= 1)
EPSILON = _number("from 0 to below 1", lambda value: 0 <= value < 1)
FLAG = Kind("true or false", lambda value: type(value) is bool)
SWITCH = Kind("true, false or a whole number", lambda value: type(value) in (bool, int))  # 4 in the first Llama 4
NAME = Kind("a name", lambda value: isinstance(value, str) and len(value) < 100)
NAMES = _list("names", NAME.fits)
SWITCHES = _list("0 and 1", lambda value: type(value) in (bool, int) and value in (0, 1))
COUNTS = _list("whole numbers from 0 on", COUNT.fits)
FACTORS = _list("numbers above 0", POSITIVE.fits)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))

FIELDS = {  # of every setting that some architecture reads
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "intermediate_size": SIZE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": SIZE,
    "num_key_value_heads": optional(SIZE),
    "head_dim": optional(SIZE),
    "tie_word_embeddings": FLAG,
    "hidden_act": NAME,
    "hidden_activation": NAME,
    "rms_norm_eps": EPSILON,
    "layer_norm_eps": EPSILON,
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "use_parallel_residual": FLAG,
    "use_qk_norm": FLAG,
    "logit_scale": POSITIVE,
    "query_pre_attn_scalar": POSITIVE,
    "attn_logit_softcapping": optional(POSITIVE),
    "final_logit_softcapping": optional(POSITIVE),
    # which keys a layer sees
    "sliding_window": optional(SIZE),
    "use_sliding_window": FLAG,
    "max_window_layers": COUNT,
    "sliding_window_pattern": SIZE,
    "layer_types": optional(NAMES),
    "attention_chunk_size": optional(SIZE),
    # positions
    "max_position_embeddings": SIZE,
    "original_max_position_embeddings": optional(SIZE),
    "rope_theta": optional(BASE),
    "rotary_emb_base": BASE,
    "rope_local_base_freq": optional(BASE),
    "partial_rotary_factor": optional(SHARE),
    "rotary_pct": SHARE,
    "rope_scaling": optional(OBJECT),
    "rope_parameters": optional(OBJECT),
    "no_rope_layers": optional(SWITCHES),
    "no_rope_layer_interval": SIZE,
    "attn_temperature_tuning": SWITCH,
    "floor_scale": SIZE,
    "attn_scale": POSITIVE,
    # mixtures of experts
    "num_local_experts": COUNT,
    "num_experts_per_tok": COUNT,
    "moe_layers": optional(COUNTS),
    "interleave_moe_layer_step": COUNT,
    "intermediate_size_mlp": SIZE,
}

_ORIGIN = """model_type architectures auto_map transformers_version _name_or_path name_or_path _commit_hash torch_dtype
    dtype quantization_config unsloth_version unsloth_fixed is_llama_config transformers.js_config"""
_TEXT = """bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id cls_token_id mask_token_id tokenizer_class
    decoder_start_token_id prefix task_specific_params finetuning_task model_max_length tokenizer_model_max_length
    max_sequence_length seq_length"""
_GENERATION = """max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens forced_bos_token_id forced_eos_token_id remove_invalid_values use_cache cache_implementation
    return_dict return_dict_in_generate output_attentions output_hidden_states output_scores output_router_logits"""
_TRAINING = """attention_dropout attention_probs_dropout_prob attn_pdrop hidden_dropout hidden_dropout_prob embd_pdrop
    resid_pdrop dropout classifier_dropout initializer_range initializer_factor gradient_checkpointing
    router_aux_loss_coef router_jitter_noise neftune_noise_alpha id2label label2id num_labels problem_type"""
_EXECUTION = """pretraining_tp torchscript use_bfloat16 tf_legacy_loss chunk_size_feed_forward is_decoder
    attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal use_flash_attn
    use_flash_attention _flash_attn_2_enabled for_llm_compressor"""
FIXED = {"is_causal": True}  # of every architecture, beside its own
HARMLESS = frozenset(" ".join((_ORIGIN, _TEXT, _GENERATION, _TRAINING, _EXECUTION)).split())
