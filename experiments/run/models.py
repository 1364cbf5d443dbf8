"""Models of Hugging Face as commands read them: with the settings that --config.field=value changes, and no run."""

import dataclasses
import pathlib

from experiments.settings import checks
from experiments.settings import config as configs
from longctx.config import ModelConfig
from longctx.errors import UserError

OPEN = "model", "mesh", "attention"  # groups of settings that change how a model is read


def settings(source: pathlib.Path, model: ModelConfig, overrides: list[str], more: tuple[str, ...] = ()):
    """The Settings of the model in a folder under --config.field=value, its dtypes as they are unless one is set.

    model: as the folder says. more: groups beside OPEN that the command reads.

    Raises:
      UserError: for a setting that has no effect, or that cannot be changed in this model.
    """
    groups = tuple(f"--config.{name}." for name in (*OPEN, *more))
    for override in overrides:
        if not override.startswith(groups):
            raise UserError(f"{override} has no effect on a Hugging Face model; {', '.join(groups)}... can be set.")
    config, _ = configs.from_command_line(["command", f"--config.init_from={source}", *overrides])
    if config.model.lora.rank:
        raise UserError(f"model.lora.rank={config.model.lora.rank} is for training; --adapter FOLDER reads an adapter.")
    said = [override.removeprefix("--config.model.").partition("=")[0] for override in overrides]
    kept = {name: getattr(model, name) for name in ("dtype", "param_dtype") if name not in said}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **kept))
    checks.check_settings(config)
    return config


def load(source: pathlib.Path, stored: ModelConfig, wanted: ModelConfig, mesh, adapter: str | None = None):
    """(the ModelConfig `wanted` with the adapter's; the parameters) of the model in a folder.

    Parameters are in the dtypes of its files unless `wanted` has another.

    stored: the folder's own ModelConfig. adapter: a folder in peft's format, if any.
    """
    from longctx import hf

    dtype = wanted.param_dtype if wanted.param_dtype != stored.param_dtype else None
    model = hf.load(source, mesh=mesh, dtype=dtype, adapter=adapter)
    return dataclasses.replace(wanted, lora=model.config.lora), model.params
