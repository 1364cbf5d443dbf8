"""Models of Hugging Face as commands read them: with the settings that --config.field=value changes, and no run."""

import dataclasses
import pathlib
import re
from typing import NamedTuple

from experiments.settings import config as configs
from experiments.settings.console import Parser
from experiments.settings.tree import Settings
from longctx.config import ModelConfig
from longctx.errors import UserError
from longctx.hf import files, folder, sources

INIT_FROM = "--config.init_from="
OPEN = "model", "mesh", "attention"  # groups of settings that change how a model is read


def settings(source: pathlib.Path, model: ModelConfig, overrides: list[str], more: tuple[str, ...] = ()):
    """The Settings of the model in a folder under --config.field=value, its dtypes as they are unless one is set.

    They are not checked yet. model: as the folder says. more: settings beside OPEN that the command reads.

    Raises:
      UserError: for a setting that has no effect, or that cannot be changed in this model.
    """
    config, _ = configs.from_command_line(["command", f"{INIT_FROM}{source}", *_open(overrides, more)])
    return _in_its_dtypes(config, model, overrides)


def options(argv: list[str], description: str):
    """(--workdir and --adapter of a command that reads the model of --config.init_from, its other arguments)."""
    parser = Parser(description)
    parser.add_argument("--workdir", metavar="DIR", help="the folder of what is written about the model")
    parser.add_argument("--adapter", metavar="FOLDER", help="a low-rank adapter of the model, in peft's format")
    return parser.parse_with_settings([arg for arg in argv[1:] if not arg.startswith((INIT_FROM, INIT_FROM[1:]))])


def require_no_adapter(adapter: str | None, run: str) -> None:
    """Raises UserError where an adapter is named for the workdir of a run."""
    if adapter is not None:
        raise UserError(f"--adapter={adapter!r} is for a model of Hugging Face, and {run} is a run.")


class Named(NamedTuple):
    """A model of Hugging Face that a command line names.

    Attributes:
      source, stored: its folder, and the ModelConfig of that.
      config: the Settings by which it is read, with those of its adapter.
      workdir: for what is written about it.
      adapter: the folder of an adapter in peft's format, if any.
    """

    source: pathlib.Path
    stored: ModelConfig
    config: Settings
    workdir: pathlib.Path
    adapter: str | None

    def load(self, mesh):
        """The parameters."""
        return load(self.source, self.stored, self.config.model, mesh, self.adapter)[1]

    @property
    def weights(self) -> str:
        """A checksum that tells the weights from others."""
        from longctx.hf import adapter as adapters

        own = sources.checksum(self.source)
        return f"{own}-{files.stamp(pathlib.Path(self.adapter) / adapters.WEIGHTS):08x}" if self.adapter else own


def of_command_line(argv: list[str], description: str, more: tuple[str, ...]) -> Named:
    """The model that --config.init_from names, for a command that reads it without a run; see `settings`.

    The workdir is --workdir, or else runs/COMMAND-MODEL. description: of the command, for its help.
    """
    chosen, others = options(argv, description)
    path = named(argv)
    source = sources.folder(path, "init_from")
    stored = folder.model_config(source)
    command = pathlib.Path(argv[0]).stem
    args = [f"--config.name={command}-{source.name}", f"{INIT_FROM}{source}", *_open(others, more)]
    config, run = configs.from_command_line([command, *args])
    config = dataclasses.replace(_in_its_dtypes(config, stored, others), name=source.name)
    if chosen.adapter:
        from longctx.hf import adapter as adapters  # imports jax

        architecture = folder.architecture_of(folder.settings(source))
        lora, _ = adapters.read(pathlib.Path(chosen.adapter), architecture, stored)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, lora=lora))
    return Named(source, stored, config, pathlib.Path(chosen.workdir or run), chosen.adapter)


def named(argv: list[str]) -> str | None:
    """The value of --config.init_from in a command line, None where there is none."""
    values = [arg.partition("=")[2] for arg in argv[1:] if arg.startswith((INIT_FROM, INIT_FROM[1:]))]
    return values[-1] if values else None


def _open(args: list[str], more: tuple[str, ...]) -> list[str]:
    """The arguments. Raises UserError for a --config.field=value that no group of OPEN and `more` has."""
    for arg in args:
        group = re.match(r"--?(?:no)?config\.([^.=]*)", arg)
        if group and group[1] not in (*OPEN, *more):
            names = ", ".join(f"--config.{name}" for name in (*OPEN, *more))
            raise UserError(f"{arg} has no effect on a Hugging Face model; {names} can be set.")
    return args


def _in_its_dtypes(config: Settings, stored: ModelConfig, args: list[str]) -> Settings:
    if config.model.lora.rank:
        raise UserError(f"model.lora.rank={config.model.lora.rank} is for training; --adapter FOLDER reads an adapter.")
    said = [arg.lstrip("-").removeprefix("config.model.").partition("=")[0] for arg in args]
    kept = {name: getattr(stored, name) for name in ("dtype", "param_dtype") if name not in said}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **kept))


def load(source: pathlib.Path, stored: ModelConfig, wanted: ModelConfig, mesh, adapter: str | None = None):
    """(the ModelConfig `wanted` with the adapter's; the parameters) of the model in a folder.

    Parameters are in the dtypes of its files unless `wanted` has another.

    stored: the folder's own ModelConfig. adapter: a folder in peft's format, if any.
    """
    from longctx import hf

    dtype = wanted.param_dtype if wanted.param_dtype != stored.param_dtype else None
    model = hf.load(source, mesh=mesh, dtype=dtype, adapter=adapter)
    return dataclasses.replace(wanted, lora=model.config.lora), model.params
