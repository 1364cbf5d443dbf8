"""What every launcher shares: the training command, the plan that it makes of it, and the base of their classes."""

import argparse
import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

import yaml

from experiments.launching import flags, storage
from experiments.run import processes
from experiments.settings import command_line
from experiments.settings import config as configs
from longctx.config import MeshConfig
from longctx.errors import UserError

USER_ERROR = 2  # exit code of a run that would fail again
STOPPED = 75  # of one that has saved and is to be started again: EX_TEMPFAIL of sysexits.h


@dataclasses.dataclass(frozen=True)
class Train:
    """One `python -m experiments.train` command with its compiler flags.

    Attributes:
      arguments: what follows experiments.train.
      mesh: of its config.
      groups: names of groups of compiler flags, with commas.
    """

    arguments: tuple[str, ...]
    mesh: MeshConfig
    groups: str = flags.NONE

    @property
    def argv(self) -> list[str]:
        """The command, by words."""
        return ["python", "-m", "experiments.train", *self.arguments]

    def environment(self, platform: str) -> dict[str, str]:
        """The variables of a run on "tpu" or "gpu" that is started again until it is done."""
        return {processes.STOPPED: str(STOPPED), **flags.variables(self.groups, platform)}

    def line(self, platform: str) -> str:
        """The command as a line of a shell, with its variables."""
        return shlex.join(
            ["env", *(f"{name}={value}" for name, value in self.environment(platform).items()), *self.argv]
        )

    def on(self, devices: int, what: str) -> "Train":
        """This command, for hardware with so many devices. Raises UserError where its mesh has another number."""
        if self.mesh.simulate:
            raise UserError(f"mesh.simulate={self.mesh.simulate} plays devices on a CPU; {what} needs 0.")
        if self.mesh.devices != devices:
            raise UserError(
                f"mesh ({self.mesh}) is of {self.mesh.devices} devices, and {what} has {devices}; "
                f"--config.mesh.context={devices} with every other axis 1 would work."
            )
        return self

    def kept_below(self, folder: str, name: str) -> "Train":
        """This command with a workdir in `folder`: the one that is named, or else folder/name.

        Raises UserError for a workdir or a config file that the machines of the run would not find.
        """
        values = {option: value for option in ("--config", "--workdir") if (value := self._value(option))}
        config = values["--config"].split(":")[0] if "--config" in values else ""
        if config.startswith(("/", "..")):
            raise UserError(f"--config {config} is outside of this folder, whose files the machines get; copy it here.")
        workdir = values.get("--workdir")
        if workdir and not workdir.startswith(f"{folder}/"):
            raise UserError(
                f"--workdir {workdir} is on a disk of each machine alone; give a folder below {folder}, where all "
                "see --storage."
            )
        more = () if workdir else ("--workdir", f"{folder}/{name}")
        return dataclasses.replace(self, arguments=(*self.arguments, *more))

    def _value(self, option: str) -> str | None:
        for word, following in zip(self.arguments, (*self.arguments[1:], ""), strict=True):
            if word == option:
                return following
            if word.startswith(f"{option}="):
                return word.split("=", 1)[1]
        return None


def train(arguments: Sequence[str], groups: str) -> Train:
    """The Train of what a user typed. Raises UserError for a mistake in its settings, before anything is rented."""
    tree, _ = command_line.parse(["experiments.train", *arguments], configs.defaults())
    flags.variables(groups, "tpu")
    return Train(tuple(arguments), configs.from_config_dict(tree).mesh, groups)


@dataclasses.dataclass
class Plan:
    """What a launch does.

    Attributes:
      files: name -> text; they are written into the folder of --out first.
      commands: run one after another, until one fails.
      together: (variables, command) of processes that are started on this machine at once, after the commands.
    """

    files: dict[str, str] = dataclasses.field(default_factory=dict)
    commands: list[list[str]] = dataclasses.field(default_factory=list)
    together: list[tuple[dict[str, str], list[str]]] = dataclasses.field(default_factory=list)


class Launcher:
    """A way to start a run. `needs_train`: whether it takes the arguments of experiments.train."""

    needs_train = True

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds options of its own."""

    def plan(self, options: argparse.Namespace, train: Train) -> Plan:
        """The Plan of a launch."""
        raise NotImplementedError

    def delete(self, options: argparse.Namespace) -> Plan:
        """The Plan that takes down what a launch of the same options has made."""
        raise UserError(f"--delete: {options.launcher} makes nothing that stays.")


def name_option(parser: argparse.ArgumentParser) -> None:
    """Adds --name, of what is made in a cluster; `check_name` says what it may be."""
    parser.add_argument("--name", required=True, help="of the run: small letters, digits and dashes")


def slice_options(parser: argparse.ArgumentParser) -> None:
    """Adds --name, --type and --slices."""
    name_option(parser)
    parser.add_argument("--type", required=True, help="TPU slice, such as v5e-64 or v5p-128")
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="number of such slices")


def storage_option(parser: argparse.ArgumentParser) -> None:
    """Adds --storage."""
    help = f"disk of all machines, mounted at {storage.MOUNT}: HOST:/EXPORT (NFS) or gs://BUCKET"
    parser.add_argument("--storage", required=True, help=help)


def written(options: argparse.Namespace, name: str) -> str:
    """The path that a file of a plan will have."""
    return str(pathlib.Path(options.out) / name)


def dumped(tree: dict) -> str:
    """A YAML document, with its keys in order and texts of several lines as blocks."""
    return yaml.dump(tree, Dumper=_Blocks, sort_keys=False, width=110)


class _Blocks(yaml.SafeDumper):
    """A dumper of YAML that writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _text)
