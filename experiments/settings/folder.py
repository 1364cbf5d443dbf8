"""The settings of a run that starts from a Hugging Face folder, which gives the model. Free of jax."""

import dataclasses
import pathlib

from longctx import hf
from longctx.config import ModelConfig, RopeConfig
from longctx.data import tokenizers
from longctx.errors import UserError
from longctx.hf import folder, rope, text

# fields of model that a run may choose; all others, beside rope, are what the weights were made with
OPEN = (
    "mask",
    "position",
    "query_scale",
    "attention_soft_cap",
    "logit_soft_cap",
    "dtype",
    "param_dtype",
    "remat",
    "lora",
)
_NOT_IN_FOLDER = ("dtype", "param_dtype", "remat", "lora")
_BY_LAYER = ("mask", "position", "query_scale")


def with_model(plain: dict, run_model: ModelConfig, explicit: dict, init_from: str, source: str) -> dict:
    """The settings of a run with the model of the folder init_from; see Config.init_from.

    Args:
      plain: all settings, as nested dicts.
      run_model: the model in `plain`.
      explicit: the settings that were set explicitly.
      source: the folder from which files are read: init_from itself, or a run's copy.

    Raises:
      UserError: for an explicit setting that contradicts the folder, and where neither has a tokenizer.
    """
    content = folder.settings(pathlib.Path(source))
    model = hf.model_config(source) if source == init_from else folder.read(content)
    model = _model(model, run_model, explicit.get("model", {}), init_from, folder.longest(content))
    stages = tuple(_stage(i, stage, model.rope, folder.longest(content)) for i, stage in enumerate(plain["stages"]))
    return plain | {
        "model": dataclasses.asdict(model),
        "stages": stages,
        "data": plain["data"] | {"tokenizer": _tokenizer(explicit, init_from, source)},
    }


def _model(model: ModelConfig, run_model: ModelConfig, explicit: dict, init_from: str, longest: int) -> ModelConfig:
    """The folder's model with the explicit settings of the run's. longest: the folder's max_position_embeddings."""
    fixed = {name: (getattr(run_model, name), getattr(model, name)) for name in explicit if name not in (*OPEN, "rope")}
    if "pairing" in explicit.get("rope", {}):
        fixed["rope.pairing"] = run_model.rope.pairing, model.rope.pairing
    if wrong := [
        f"model.{name}={value!r} (it has {actual!r})" for name, (value, actual) in fixed.items() if value != actual
    ]:
        raise UserError(
            f"{', '.join(wrong)} cannot be changed in the model of init_from={init_from!r}, whose "
            f"weights are made for it; leave it out. Of model {', '.join(OPEN)} and rope can be set."
        )
    for name in _BY_LAYER:
        value = getattr(run_model, name)
        if name in explicit and all(getattr(kind, name) not in ("", value) for kind in model.pattern):
            raise UserError(
                f"model.{name}={value!r} has no effect: every layer of init_from="
                f"{init_from!r} has its own ({getattr(model.pattern[0], name)!r}); leave it out."
            )
    changed = {name: getattr(run_model.rope, name) for name in explicit.get("rope", {})}
    return dataclasses.replace(
        model,
        rope=rope.override(model.rope, changed, longest, "model.rope"),
        **{name: getattr(run_model, name) for name in OPEN if name in explicit or name in _NOT_IN_FOLDER},
    )


def _stage(index: int, stage: dict, model_rope: RopeConfig, longest: int) -> dict:
    """The settings of a stage with a complete rope, where it has one of its own."""
    own = {name: value for name, value in (stage["rope"] or {}).items() if value is not None}
    if not own:
        return stage
    changed = rope.override(model_rope, own, longest, f"stages[{index}].rope")
    return stage | {"rope": dataclasses.asdict(changed)}


def _tokenizer(explicit: dict, init_from: str, source: str) -> str:
    """data.tokenizer: the explicit one, or else the folder's.

    Raises UserError where there is neither, and for bytes where the folder has a tokenizer that cannot be read.
    """
    tokenizer = explicit.get("data", {}).get("tokenizer")
    if tokenizer in (None, "bytes"):
        tokenizers.refuse_sentence_piece(pathlib.Path(source), f"init_from={init_from!r}")
    if tokenizer is not None:
        return tokenizer
    if (pathlib.Path(source) / text.FILE).is_file():
        return init_from
    raise UserError(
        f"init_from={init_from!r} has no {text.FILE}, and its model cannot read another's tokens: set "
        "data.tokenizer=FILE, or data.tokenizer=bytes for a model of bytes."
    )
