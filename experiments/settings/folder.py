"""The settings of a run that starts from a folder of Hugging Face: what is the folder's, and what was said beside it.

Nothing here imports jax.
"""

import dataclasses
import pathlib

from longctx import hf
from longctx.config import ModelConfig, RopeConfig
from longctx.errors import UserError
from longctx.hf import folder, rope, text

# fields of model that a run may choose; beside rope, all others are what the weights were made with
OPEN = ("mask", "position", "query_scale", "attention_soft_cap", "logit_soft_cap", "dtype", "param_dtype", "remat")
_OF_THE_RUN = ("dtype", "param_dtype", "remat")  # the folder has none of these
_OF_LAYERS = ("mask", "position", "query_scale")


def started(plain: dict, asked: ModelConfig, chosen: dict, init_from: str, source: str) -> dict:
    """The settings of a run that starts from the folder init_from; see Config.init_from.

    Args:
      plain: all settings, as nested dicts; asked: their model.
      chosen: those that were said.
      source: where the files of init_from are read: itself, or the copies of a run.

    Raises:
      UserError: for what was said and cannot be, and where the folder has no tokenizer and none was said.
    """
    content = folder.settings(pathlib.Path(source))
    model = hf.model_config(source) if source == init_from else folder.read(content)
    model = _model(model, asked, chosen.get("model", {}), init_from, folder.longest(content))
    stages = tuple(_stage(i, stage, model.rope, folder.longest(content)) for i, stage in enumerate(plain["stages"]))
    return plain | {
        "model": dataclasses.asdict(model),
        "stages": stages,
        "data": plain["data"] | {"tokenizer": _tokenizer(chosen, init_from, source)},
    }


def _model(model: ModelConfig, asked: ModelConfig, chosen: dict, init_from: str, longest: int) -> ModelConfig:
    """The folder's model with what was said of it."""
    fixed = {name: (getattr(asked, name), getattr(model, name)) for name in chosen if name not in (*OPEN, "rope")}
    fixed |= {"rope.pairing": (asked.rope.pairing, model.rope.pairing)} if "pairing" in chosen.get("rope", {}) else {}
    if wrong := [
        f"model.{name}={mine!r} (it has {theirs!r})" for name, (mine, theirs) in fixed.items() if mine != theirs
    ]:
        raise UserError(
            f"{', '.join(wrong)} cannot be changed in the model of init_from={init_from!r}, whose "
            f"weights are made for it; leave it out. Of model {', '.join(OPEN)} and rope can be set."
        )
    for name in _OF_LAYERS:
        if name in chosen and all(getattr(kind, name) not in ("", getattr(asked, name)) for kind in model.pattern):
            raise UserError(
                f"model.{name}={getattr(asked, name)!r} has no effect: every layer of init_from="
                f"{init_from!r} has its own ({getattr(model.pattern[0], name)!r}); leave it out."
            )
    changed = {name: getattr(asked.rope, name) for name in chosen.get("rope", {})}
    return dataclasses.replace(
        model,
        rope=rope.override(model.rope, changed, longest, "model.rope"),
        **{name: getattr(asked, name) for name in OPEN if name in chosen or name in _OF_THE_RUN},
    )


def _stage(index: int, stage: dict, model_rope: RopeConfig, longest: int) -> dict:
    """A stage whose rope says the fields in which it differs from the model's."""
    own = {name: value for name, value in (stage["rope"] or {}).items() if value is not None}
    if not own:
        return stage
    changed = rope.override(model_rope, own, longest, f"stages[{index}].rope")
    return stage | {"rope": dataclasses.asdict(changed)}


def _tokenizer(chosen: dict, init_from: str, source: str) -> str:
    if (given := chosen.get("data", {}).get("tokenizer")) is not None:
        return given
    if (pathlib.Path(source) / text.FILE).is_file():
        return init_from
    raise UserError(
        f"init_from={init_from!r} has no {text.FILE}, and its model cannot read another's tokens: give "
        "data.tokenizer=FILE, or say data.tokenizer=bytes for a model of bytes."
    )
