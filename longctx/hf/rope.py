"""RoPE settings of config.json, in both dialects, and RopeConfig.

Version 4 of transformers wrote `rope_theta` and `rope_scaling` {rope_type or type, factor, ...}; version 5 writes one
`rope_parameters` {rope_type, rope_theta, factor, ...}. Both versions read the former, which is what we write. Which
rope_type a scaling has, and what of its numbers config.json holds, its class says (positions/scalings.py).
"""

import dataclasses
import math

from longctx.config import RopeConfig
from longctx.errors import UserError, unknown_name
from longctx.hf.fields import BASE, FACTORS, FLAG, NAME, NOT_NEGATIVE, POSITIVE, SHARE, SIZE, optional, shown
from longctx.positions import api, scalings
from longctx.positions.scalings import SCALINGS, Scaling

ALWAYS = ("theta", "scaling", "pairing", "rotary_fraction", "original_length")  # fields that count with every scaling
# fields of RopeConfig that config.json calls otherwise
_NAMES = {
    "original_length": "original_max_position_embeddings",
    "short_factors": "short_factor",
    "long_factors": "long_factor",
}
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
    """The RoPE settings in which a family's config.json departs from the other families'."""

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
    rope_type = given.get("rope_type") or given.get("type") or "default"
    scaling, longest = _scaling_of("config.json: rope_type", rope_type), settings["max_position_embeddings"]
    kind = SCALINGS[scaling]
    names = _names(kind)
    numbers = {ours: given[theirs] for theirs, ours in names.items() if given.get(theirs) is not None}
    if "original_length" in names.values():
        numbers["original_length"] = settings.get("original_max_position_embeddings") or numbers.get("original_length")
    original = numbers["original_length"] = numbers.get("original_length") or longest
    if "factor" in kind.implied:
        numbers.setdefault("factor", longest / original)
    if not (numbers.get("mscale") and numbers.get("mscale_all_dim")):
        numbers = _without_mscale(numbers)
    if missing := [theirs for theirs, ours in names.items() if ours in scalings.required(kind) and ours not in numbers]:
        raise UserError(f"config.json: rope_type {rope_type!r} needs {', '.join(missing)} beside it.")
    share = _first(given.get("partial_rotary_factor"), settings.get(dialect.share_name), dialect.share, 1.0)
    if dialect.share is None and not kind.whole_head and share != 1:
        raise UserError(
            f"config.json: partial_rotary_factor={share!r} is not supported for rope_type {rope_type!r} of "
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
    """The fields of RopeConfig that a rope_scaling or rope_parameters of config.json sets, for `override`.

    Raises:
      UserError: for a name or a rope_type that is not known, or a value of another type.
    """
    names = {
        "rope_theta": "theta",
        "partial_rotary_factor": "rotary_fraction",
        "rope_type": "scaling",
        "type": "scaling",
    }
    names |= {theirs: ours for kind in SCALINGS.values() for theirs, ours in _names(kind).items() if kind.rope_types}
    fields = {}
    for theirs, value in scaling.items():
        if theirs not in names:
            raise unknown_name("rope_scaling", theirs, names)
        optional(_FIELDS[theirs]).check(theirs, value, "rope_scaling: ")
        if value is not None:
            fields[names[theirs]] = type(getattr(_DEFAULTS, names[theirs]))(_exact(value))
    if not (fields.get("mscale") and fields.get("mscale_all_dim")):
        fields = _without_mscale(fields)
    name = _scaling_of("rope_scaling: rope_type", fields.get("scaling", "default"))
    return fields | ({"scaling": name} if "scaling" in fields else {})


def override(rope: RopeConfig, fields: dict, longest: int, name: str = "rope_scaling") -> RopeConfig:
    """`rope` of a checkpoint with other values of some fields.

    Where these name a scaling it begins anew: its other numbers are as published. Of `rope` there stay theta, pairing,
    the fraction that rotates, and original_length: the one in `fields`, else that of the checkpoint's own scaling, else
    its max_position_embeddings (`read` has seen to the last two).

    longest: max_position_embeddings, for YaRN and LongRoPE without a factor, as transformers has it.
    name: of the whole group of fields, for messages.

    Raises:
      UserError: for a number that the scaling does not read, or a factor that it lacks.
    """
    scaling = fields.get("scaling", rope.scaling)
    kind, _ = scalings.named(scaling, f"{name}: scaling")
    if unread := [field for field in fields if field not in (*scalings.reads(kind), *ALWAYS)]:
        readers = [other for other in SCALINGS if unread[0] in scalings.reads(SCALINGS[other])]
        raise UserError(f"{name}: scaling {scaling!r} reads no {', '.join(unread)}; {', '.join(readers)} would.")
    if "scaling" not in fields:
        return dataclasses.replace(rope, **fields)
    kept = {field: getattr(rope, field) for field in ALWAYS}
    changed = RopeConfig(**kept | fields)
    if "factor" in fields or "factor" not in scalings.required(kind):
        return changed
    if "factor" not in kind.implied:
        raise UserError(f"{name}: scaling {scaling!r} needs a factor, such as 4.0.")
    return dataclasses.replace(changed, factor=longest / max(changed.original_length, 1))


def stretched(rope: RopeConfig) -> int:
    """The number of tokens that `rope` is for by its own numbers; 0 where they do not say."""
    return math.ceil(rope.original_length * scalings.of(rope).stretch)


def bound(rope: RopeConfig) -> bool:
    """Whether transformers takes a number of the scaling from max_position_embeddings."""
    scaling = scalings.of(rope)
    return bool(scaling.implied or scaling.unwritten)


def reach(rope: RopeConfig, longest: int = 0) -> int:
    """max_position_embeddings: the number of tokens that `rope` is stretched to, or `longest` where it is more.

    Version 4 of transformers takes the factor of YaRN and LongRoPE from it (version 5 warns where they differ), and
    both versions the original length of dynamic: these get what they read.
    """
    if bound(rope) and stretched(rope):
        return stretched(rope)
    return max(stretched(rope), longest) or 2048


def write(rope: RopeConfig, dialect: Dialect, longest: int = 0) -> dict:
    """The settings of config.json for `rope`, in the dialect of version 4; longest: see `reach`."""
    kind, _ = scalings.named(rope.scaling)
    needed, scaling = ("factor", *scalings.required(kind)), {"rope_type": kind.rope_types[0]}
    for theirs, ours in _names(kind).items():
        value = getattr(rope, ours)
        if value != getattr(_DEFAULTS, ours) or (value and ours in needed):
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
    elif kind.whole_head:
        scaling["partial_rotary_factor"] = rope.rotary_fraction
    return settings


def plain(rope: RopeConfig, head_dim: int) -> RopeConfig:
    """A RopeConfig of the same rotation that config.json has words for: NTK is a larger theta, and numbers that nothing
    reads have their defaults.

    Raises:
      UserError: for a scaling that has no rope_type.
    """
    scaling = scalings.of(rope)
    if not scaling.rope_types:
        theta = scaling.equal_theta(api.rotation(rope, head_dim))
        if theta is None:
            raise UserError(
                f"model.rope.scaling={rope.scaling!r} has no rope_type in Hugging Face's config.json; "
                f"{', '.join(name for name, kind in SCALINGS.items() if kind.rope_types)} and ntk have."
            )
        rope = dataclasses.replace(rope, scaling="none", theta=theta)
    kind, _ = scalings.named(rope.scaling)
    names = {"theta", "scaling", "pairing", "rotary_fraction", *scalings.numbers_of(kind)}
    return RopeConfig(**{name: getattr(rope, name) for name in names})


def _scaling_of(field: str, rope_type: str) -> str:
    """The name of the scaling of a rope_type. Raises UserError for one that is not known; `field` names the setting."""
    types = {theirs: name for name, kind in SCALINGS.items() for theirs in kind.rope_types}
    if rope_type not in types:
        raise unknown_name(field, rope_type, types)
    return types[rope_type]


def _names(kind: type[Scaling]) -> dict[str, str]:
    """The names in config.json of the numbers of a scaling -> the fields of RopeConfig."""
    written = [name for name in scalings.numbers_of(kind) if name not in kind.unwritten]
    return {_NAMES.get(name, name): name for name in written}


def _checked(where: str, given: dict) -> dict:
    """The settings of a RoPE under the key `where`, their types checked, without those that no rope_type knows."""
    for name, value in given.items():
        if name in _FIELDS:
            optional(_FIELDS[name]).check(f"{where}.{name}", value)
        elif value and name not in _HARMLESS:
            raise UserError(
                f"config.json: {shown(f'{where}.{name}', value)} is not known to longctx; remove it if "
                "it changes no numbers."
            )
    return {name: value for name, value in given.items() if name in _FIELDS}


def _without_mscale(numbers: dict) -> dict:
    """The numbers without mscale and mscale_all_dim, of which one alone means nothing."""
    return {name: value for name, value in numbers.items() if name not in ("mscale", "mscale_all_dim")}


def _first(*values):
    return next(value for value in values if value is not None)


def _exact(value):
    return tuple(float(one) for one in value) if isinstance(value, list | tuple) else value
