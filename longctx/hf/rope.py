"""RoPE settings of config.json, in both dialects, and RopeConfig.

Version 4 of transformers wrote `rope_theta` and `rope_scaling` {rope_type or type, factor, ...}; version 5 writes one
`rope_parameters` {rope_type, rope_theta, factor, ...}. Both versions read the former, which is what we write.
"""

import dataclasses
import math

from longctx.config import RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.hf.fields import BASE, FACTORS, FLAG, NAME, NOT_NEGATIVE, POSITIVE, SHARE, SIZE, optional, shown
from longctx.positions.api import READS
from longctx.positions.scaling import rotary_size

TYPES = {
    "default": "none",
    "linear": "linear",
    "dynamic": "dynamic",
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",
    "llama3": "llama3",
    "proportional": "proportional",
}  # rope_type -> scaling
# scaling -> theirs: ours, of those numbers that the scaling reads
_FACTOR = {"factor": "factor"}
_ORIGINAL = {"original_max_position_embeddings": "original_length"}
_NUMBERS = {
    "none": {},
    "linear": _FACTOR,
    "dynamic": _FACTOR,
    "proportional": _FACTOR,
    "llama3": _FACTOR | _ORIGINAL | {"low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"},
    "yarn": _FACTOR
    | _ORIGINAL
    | {name: name for name in ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate")},
    "longrope": _FACTOR
    | _ORIGINAL
    | {"attention_factor": "attention_factor", "short_factor": "short_factors", "long_factor": "long_factors"},
}
_IMPLIED = ("yarn", "longrope")  # whose factor config.json may leave to max_position_embeddings
BOUND = ("dynamic", *_IMPLIED)  # of which transformers takes a number from max_position_embeddings
ALWAYS = ("theta", "scaling", "pairing", "rotary_fraction", "original_length")  # what is read with every scaling
_DEFAULTS = RopeConfig()
_FIELDS = {
    "rope_type": NAME,
    "type": NAME,
    "rope_theta": BASE,
    "partial_rotary_factor": SHARE,
    "factor": POSITIVE,
    "original_max_position_embeddings": SIZE,
    "low_freq_factor": POSITIVE,
    "high_freq_factor": POSITIVE,
    "beta_fast": POSITIVE,
    "beta_slow": POSITIVE,
    "attention_factor": POSITIVE,
    "mscale": NOT_NEGATIVE,
    "mscale_all_dim": NOT_NEGATIVE,
    "truncate": FLAG,
    "short_factor": FACTORS,
    "long_factor": FACTORS,
}
_HARMLESS = ("finetuned",)  # that the weights are trained for it


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a family writes its RoPE settings where it departs from the rest."""

    theta: float = 10_000.0  # rope_theta, where config.json has none
    pairing: str = "half"
    theta_name: str = "rope_theta"  # of version 4
    share: float | None = None  # partial_rotary_factor where there is none; None: not read
    share_name: str = "partial_rotary_factor"  # of version 4


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
    if scaling in _IMPLIED:
        numbers.setdefault("factor", longest / original)
    if not (numbers.get("mscale") and numbers.get("mscale_all_dim")):
        numbers = _without_mscale(numbers)
    _require(kind, scaling, numbers)
    share = _first(given.get("partial_rotary_factor"), settings.get(dialect.share_name), dialect.share, 1.0)
    if dialect.share is None and scaling != "proportional" and share != 1:
        raise UserError(
            f"config.json: partial_rotary_factor={share!r} is not supported for rope_type {kind!r} of "
            "this model_type; 1.0 is."
        )
    return RopeConfig(
        theta=float(_first(given.get("rope_theta"), settings.get(dialect.theta_name), dialect.theta)),
        scaling=scaling,
        pairing=dialect.pairing,
        rotary_fraction=float(share),
        **{name: _exact(value) for name, value in numbers.items()},
    )


def fields_of(scaling: dict) -> dict:
    """The fields of RopeConfig that a rope_scaling or rope_parameters of config.json says, as `override` takes them.

    Raises:
      UserError: for a name or a rope_type that is not known, or a value of another type.
    """
    names = {
        "rope_theta": "theta",
        "partial_rotary_factor": "rotary_fraction",
        "rope_type": "scaling",
        "type": "scaling",
    }
    names |= {theirs: ours for numbers in _NUMBERS.values() for theirs, ours in numbers.items()}
    found = {}
    for theirs, value in scaling.items():
        if theirs not in names:
            raise unknown_name("rope_scaling", theirs, names)
        optional(_FIELDS[theirs]).check(theirs, value, "rope_scaling: ")
        if value is not None:
            found[names[theirs]] = type(getattr(_DEFAULTS, names[theirs]))(_exact(value))
    if not (found.get("mscale") and found.get("mscale_all_dim")):
        found = _without_mscale(found)
    kind = found.get("scaling", "default")
    if kind not in TYPES:
        raise unknown_name("rope_scaling: rope_type", kind, TYPES)
    return found | ({"scaling": TYPES[kind]} if "scaling" in found else {})


def override(rope: RopeConfig, fields: dict, longest: int, name: str = "rope_scaling") -> RopeConfig:
    """`rope` of a checkpoint with other values of the fields that were said.

    Who says a scaling begins anew: what is not said of it is as published. Of `rope` there stay theta, pairing, the
    share that rotates, and original_length: that is the one said, else that of the checkpoint's own scaling, else its
    max_position_embeddings (`read` has seen to the last two).

    longest: max_position_embeddings, for YaRN and LongRoPE without a factor, as transformers has it.
    name: of all of it, for messages.

    Raises:
      UserError: for a number that the scaling does not read, or a factor that it lacks.
    """
    scaling = fields.get("scaling", rope.scaling)
    if scaling not in READS:
        raise unknown_name(f"{name}: scaling", scaling, READS)
    if unread := [field for field in fields if field not in (*READS[scaling], *ALWAYS)]:
        raise UserError(
            f"{name}: scaling {scaling!r} reads no {', '.join(unread)}; "
            f"{', '.join(other for other in READS if unread[0] in READS[other])} would."
        )
    if "scaling" not in fields:
        return dataclasses.replace(rope, **fields)
    kept = {field: getattr(rope, field) for field in ALWAYS}
    changed = RopeConfig(**kept | fields)
    if "factor" in fields or "factor" not in READS[scaling] or scaling == "proportional":
        return changed
    if scaling not in _IMPLIED:
        raise UserError(f"{name}: scaling {scaling!r} needs a factor, such as 4.0.")
    return dataclasses.replace(changed, factor=longest / max(changed.original_length, 1))


def stretched(rope: RopeConfig) -> int:
    """The tokens that `rope` is for by its own numbers; 0: they do not say."""
    return math.ceil(rope.original_length * (1 if rope.scaling in ("none", "dynamic") else rope.factor))


def reach(rope: RopeConfig, longest: int = 0) -> int:
    """max_position_embeddings: the tokens that `rope` is stretched to, or `longest` where these are more.

    Version 4 of transformers takes the factor of YaRN and LongRoPE from it (version 5 warns where they differ), and
    both versions the original length of dynamic: these get what they read.
    """
    if rope.scaling in BOUND and stretched(rope):
        return stretched(rope)
    return max(stretched(rope), longest) or 2048


def write(rope: RopeConfig, dialect: Dialect, longest: int = 0) -> dict:
    """The settings of config.json that say `rope`, in the dialect of version 4; longest: see `reach`."""
    scaling = {"rope_type": next(theirs for theirs, ours in TYPES.items() if ours == rope.scaling)}
    for theirs, ours in _NUMBERS[rope.scaling].items():
        value = getattr(rope, ours)
        if value != getattr(_DEFAULTS, ours) or ours in ("factor", "low_freq_factor", "high_freq_factor"):
            scaling[theirs] = list(value) if isinstance(value, tuple) else value
    if "mscale_all_dim" in scaling:
        scaling["mscale"] = rope.mscale
    settings = {
        dialect.theta_name: rope.theta,
        "rope_scaling": None if rope.scaling == "none" else scaling,
        "max_position_embeddings": reach(rope, longest),
    }
    if rope.scaling == "longrope":
        settings["original_max_position_embeddings"] = rope.original_length  # version 4 reads it there
    if dialect.share is not None:
        settings[dialect.share_name] = rope.rotary_fraction
    elif rope.scaling == "proportional":
        scaling["partial_rotary_factor"] = rope.rotary_fraction
    return settings


def plain(rope: RopeConfig, head_dim: int) -> RopeConfig:
    """The same rotation as config.json can say it: NTK is a larger theta, and numbers that no one reads are left out.

    Raises:
      UserError: for a scaling that it has no rope_type for.
    """
    if rope.scaling == "ntk":
        d = rotary_size(rope, head_dim)
        rope = dataclasses.replace(rope, scaling="none", theta=rope.theta * rope.factor ** (d / (d - 2)))
    if rope.scaling not in _NUMBERS:
        raise UserError(
            f"model.rope.scaling={rope.scaling!r} has no rope_type in Hugging Face's config.json; "
            f"{', '.join(_NUMBERS)} and ntk have."
        )
    said = {"theta", "scaling", "pairing", "rotary_fraction", *_NUMBERS[rope.scaling].values()}
    said |= {"original_length"} if rope.scaling == "dynamic" else set()
    return RopeConfig(**{name: getattr(rope, name) for name in said})


def _checked(where: str, given: dict) -> dict:
    """The settings of a RoPE under the key `where`, each of its kind, without those that no rope_type knows."""
    for name, value in given.items():
        if name in _FIELDS:
            optional(_FIELDS[name]).check(f"{where}.{name}", value)
        elif value and name not in _HARMLESS:
            raise UserError(
                f"config.json: {shown(f'{where}.{name}', value)} is not known to longctx; remove it if "
                "it changes no numbers."
            )
    return {name: value for name, value in given.items() if name in _FIELDS}


def _require(kind: str, scaling: str, numbers: dict) -> None:
    optional = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
    optional |= {"factor"} if scaling == "proportional" else set()
    missing = [theirs for theirs, ours in _NUMBERS[scaling].items() if ours not in numbers and ours not in optional]
    if missing:
        raise UserError(f"config.json: rope_type {kind!r} needs {', '.join(missing)} beside it.")


def _without_mscale(numbers: dict) -> dict:
    """Leaves out mscale and mscale_all_dim, of which one alone means nothing."""
    return {name: value for name, value in numbers.items() if name not in ("mscale", "mscale_all_dim")}


def _first(*values):
    return next(value for value in values if value is not None)


def _exact(value):
    return tuple(float(one) for one in value) if isinstance(value, list | tuple) else value
