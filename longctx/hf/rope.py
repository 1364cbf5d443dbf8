"""RoPE settings of config.json, in both dialects, and RopeConfig.

Version 4 of transformers wrote `rope_theta` and `rope_scaling` {rope_type or type, factor, ...}; version 5 writes one
`rope_parameters` {rope_type, rope_theta, factor, ...}. Both versions read the former, which is what we write.
"""
import dataclasses
import math

from longctx.config import RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.hf.fields import BASE, FACTORS, FLAG, NAME, NOT_NEGATIVE, POSITIVE, SHARE, SIZE, optional, said
from longctx.positions.scaling import rotary_size

TYPES = {"default": "none", "linear": "linear", "dynamic": "dynamic", "yarn": "yarn", "longrope": "longrope",
         "su": "longrope", "llama3": "llama3", "proportional": "proportional"}         # rope_type -> scaling
# scaling -> theirs: ours, of those numbers that the scaling reads
_FACTOR = {"factor": "factor"}
_ORIGINAL = {"original_max_position_embeddings": "original_length"}
_NUMBERS = {
    "none": {}, "linear": _FACTOR, "dynamic": _FACTOR, "proportional": _FACTOR,
    "llama3": _FACTOR | _ORIGINAL | {"low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"},
    "yarn": _FACTOR | _ORIGINAL | {name: name for name in ("beta_fast", "beta_slow", "attention_factor", "mscale",
                                                           "mscale_all_dim", "truncate")},
    "longrope": _FACTOR | _ORIGINAL | {"attention_factor": "attention_factor", "short_factor": "short_factors",
                                       "long_factor": "long_factors"},
}
_DEFAULTS = RopeConfig()
_FIELDS = {"rope_type": NAME, "type": NAME, "rope_theta": BASE, "partial_rotary_factor": SHARE, "factor": POSITIVE,
           "original_max_position_embeddings": SIZE, "low_freq_factor": POSITIVE, "high_freq_factor": POSITIVE,
           "beta_fast": POSITIVE, "beta_slow": POSITIVE, "attention_factor": POSITIVE, "mscale": NOT_NEGATIVE,
           "mscale_all_dim": NOT_NEGATIVE, "truncate": FLAG, "short_factor": FACTORS, "long_factor": FACTORS}
_HARMLESS = ("finetuned",)              # that the weights are trained for it


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a family writes its RoPE settings where it departs from the rest."""
    base: float = 10_000.0                          # rope_theta, where config.json has none
    pairing: str = "half"
    base_name: str = "rope_theta"                   # of version 4
    share: float | None = None                      # partial_rotary_factor where there is none; None: not read
    share_name: str = "partial_rotary_factor"       # of version 4


def read(settings: dict, dialect: Dialect, parameters: dict | None = None) -> RopeConfig:
    """The RopeConfig of a config.json; parameters: the part of it that is meant, where there are several.

    `original_length` is max_position_embeddings where the scaling does not say otherwise.

    Raises:
      UserError: for a rope_type that is not known, or one that misses a number.
    """
    where = "rope_scaling" if settings.get("rope_scaling") else "rope_parameters"
    given = _checked(where, (settings.get(where) or {}) if parameters is None else parameters)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in TYPES:
        raise unknown_name("config.json: rope_type", kind, TYPES)
    scaling, longest = TYPES[kind], settings["max_position_embeddings"]
    numbers = {ours: given[theirs] for theirs, ours in _NUMBERS[scaling].items() if given.get(theirs) is not None}
    if "original_length" in _NUMBERS[scaling].values():
        numbers["original_length"] = settings.get("original_max_position_embeddings") or numbers.get("original_length")
    original = numbers["original_length"] = numbers.get("original_length") or longest
    if scaling in ("yarn", "longrope"):
        numbers.setdefault("factor", longest / original)
    if not (numbers.get("mscale") and numbers.get("mscale_all_dim")):           # one alone means nothing
        numbers = {name: value for name, value in numbers.items() if name not in ("mscale", "mscale_all_dim")}
    _require(kind, scaling, numbers)
    share = _first(given.get("partial_rotary_factor"), settings.get(dialect.share_name), dialect.share, 1.0)
    if dialect.share is None and scaling != "proportional" and share != 1:
        raise UserError(f"config.json: partial_rotary_factor={share!r} is not supported for rope_type {kind!r} of "
                        "this model_type; 1.0 is.")
    return RopeConfig(base=float(_first(given.get("rope_theta"), settings.get(dialect.base_name), dialect.base)),
                      scaling=scaling, pairing=dialect.pairing, rotary_share=float(share),
                      **{name: _exact(value) for name, value in numbers.items()})


def _checked(where: str, given: dict) -> dict:
    """The settings of a RoPE under the key `where`, each of its kind, without those that no rope_type knows."""
    for name, value in given.items():
        if name in _FIELDS:
            optional(_FIELDS[name]).check(f"{where}.{name}", value)
        elif value and name not in _HARMLESS:
            raise UserError(f"config.json: {said(f'{where}.{name}', value)} is not known to longctx; remove it if "
                            "it changes no numbers.")
    return {name: value for name, value in given.items() if name in _FIELDS}


def override(settings: dict, scaling: dict) -> dict:
    """`settings` with other RoPE scaling: a rope_scaling or rope_parameters; what it leaves out stays as it was."""
    given = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    kept = {name: given[name] for name in ("rope_theta", "partial_rotary_factor") if name in given}
    changed = settings | {"rope_scaling": kept | {"rope_type": "default"} | scaling}
    if "type" in scaling and "rope_type" not in scaling:
        changed["rope_scaling"]["rope_type"] = scaling["type"]
    if "original_max_position_embeddings" in scaling:
        changed.pop("original_max_position_embeddings", None)
    return changed


def write(rope: RopeConfig, dialect: Dialect, longest: int = 0) -> dict:
    """The settings of config.json that say `rope`, in the dialect of version 4.

    longest: the length in tokens that the model is for; 0 = factor * original_length.
    """
    scaling = {"rope_type": next(theirs for theirs, ours in TYPES.items() if ours == rope.scaling)}
    for theirs, ours in _NUMBERS[rope.scaling].items():
        value = getattr(rope, ours)
        if value != getattr(_DEFAULTS, ours) or ours in ("factor", "low_freq_factor", "high_freq_factor"):
            scaling[theirs] = list(value) if isinstance(value, tuple) else value
    if "mscale_all_dim" in scaling:
        scaling["mscale"] = rope.mscale
    stretched = rope.original_length if rope.scaling in ("none", "dynamic") else rope.factor * rope.original_length
    settings = {dialect.base_name: rope.base, "rope_scaling": None if rope.scaling == "none" else scaling,
                "max_position_embeddings": longest or math.ceil(stretched) or 2048}
    if rope.scaling == "dynamic":
        settings["max_position_embeddings"] = rope.original_length      # it is the one that dynamic reads
    if rope.scaling == "longrope":
        settings["original_max_position_embeddings"] = rope.original_length     # version 4 reads it there
    if dialect.share is not None:
        settings[dialect.share_name] = rope.rotary_share
    elif rope.scaling == "proportional":
        scaling["partial_rotary_factor"] = rope.rotary_share
    return settings


def plain(rope: RopeConfig, head_size: int) -> RopeConfig:
    """The same rotation as config.json can say it: NTK is a larger base, and numbers that no one reads are left out.

    Raises:
      UserError: for a scaling that it has no rope_type for.
    """
    if rope.scaling == "ntk":
        d = rotary_size(rope, head_size)
        rope = dataclasses.replace(rope, scaling="none", base=rope.base * rope.factor ** (d / (d - 2)))
    if rope.scaling not in _NUMBERS:
        raise UserError(f"model.rope.scaling={rope.scaling!r} has no rope_type in Hugging Face's config.json; "
                        f"{', '.join(_NUMBERS)} and ntk have.")
    said = {"base", "scaling", "pairing", "rotary_share", *_NUMBERS[rope.scaling].values()}
    said |= {"original_length"} if rope.scaling == "dynamic" else set()
    return RopeConfig(**{name: getattr(rope, name) for name in said})


def _require(kind: str, scaling: str, numbers: dict) -> None:
    optional = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
    optional |= {"factor"} if scaling == "proportional" else set()
    missing = [theirs for theirs, ours in _NUMBERS[scaling].items() if ours not in numbers and ours not in optional]
    if missing:
        raise UserError(f"config.json: rope_type {kind!r} needs {', '.join(missing)} beside it.")


def _first(*values):
    return next(value for value in values if value is not None)


def _exact(value):
    return tuple(float(one) for one in value) if isinstance(value, list | tuple) else value
