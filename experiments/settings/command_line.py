"""The command line of every command: --config FILE[:arg=value,...] [--config.field=value ...] [--workdir DIR].

absl and ml_collections parse and convert the values. Mistakes that they would answer with a traceback or a page of
usage are looked for first, so that every mistake is one line that names it and what would work.
"""

import difflib
import re
import sys
from collections.abc import Callable

from absl import flags
from ml_collections import config_flags
from ml_collections.config_dict import ConfigDict

from experiments.settings import files, places
from experiments.settings.fields import flat
from experiments.settings.fields import table as settings_table
from longctx.errors import UserError

USAGE = """python -m experiments.COMMAND --config FILE[:arg=value,...] [--config.field=value ...] [--workdir DIR]

  --config FILE           a config file, such as configs/quickstart.py, or with arguments, configs/quickstart.py:smoke
  --config.field=value    changes a setting, such as --config.model.layers=8 or --config.stages[0].seq_len=1024
  --config.init_from=DIR  a Hugging Face model to start from (folder, .gguf, id in the hub's cache); it needs no
                          --config FILE
  --workdir DIR           the folder that keeps everything of a run; default runs/NAME, with the config's name
  --resume STEP|never     of experiments.train: goes back to that checkpoint, or starts over; later ones are set aside
  --print-config          prints all settings as a command line takes them, and does nothing"""

PATHS = "init_from", "data.tokenizer"  # settings that name a file or a folder of this machine
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
_PATH = re.compile(r"[A-Za-z_]\w*(\[-?\d+\])*(\.[A-Za-z_]\w*(\[-?\d+\])*)*")
_PART = re.compile(r"\w+|\[-?\d+\]")
_NUMBER = re.compile(r"-[\d.][\d.eE+-]*")


def parse(
    argv: list[str], fields: ConfigDict, stored: Callable[[str | None], ConfigDict] | None = None
) -> tuple[ConfigDict, str | None]:
    """(settings, --workdir or None) of a command line.

    Args:
      fields: every field with its default, from which to suggest one for a field that does not exist.
      stored: workdir -> ConfigDict, for commands about an existing run, which take no --config FILE.

    Raises:
      UserError: for the first mistake.
      SystemExit: after --help.
    """
    named, rest = _flags(argv)
    if named.help:
        print(f"{USAGE}\n\nSettings and their defaults:\n\n{settings_table()}")
        sys.exit(0)
    for option in ("config", "workdir"):
        places.check_local(f"--{option}", named[option].value)
    paths = [_override(arg) for arg in rest[1:] if arg.startswith("-") and not _NUMBER.fullmatch(arg)]
    if stored and named.config:
        raise UserError(
            f"--config {named.config}: the settings are those of the run in --workdir; "
            "--config.field=value changes one."
        )
    if stored:
        config = stored(named.workdir)
    elif named.config:
        config = files.load(named.config, fields)
    elif "init_from" in paths:
        config = fields
    else:
        example = next((arg for arg in rest[1:] if ".py" in arg), "configs/quickstart.py")
        raise UserError(f"--config is missing; give a config file, such as --config {example}.")
    config = _overridden(config, paths, rest)
    for path in PATHS:
        places.check_local(path, value_at(config, path))
    if named["print-config"].value:
        print("\n".join(flat(config)))
        sys.exit(0)
    return config, named.workdir


def _flags(argv: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """(--config, --workdir and --help, the arguments that are none of these). Raises UserError."""
    named = flags.FlagValues()
    flags.DEFINE_string("config", None, "", flag_values=named)
    flags.DEFINE_string("workdir", None, "", flag_values=named)
    flags.DEFINE_boolean("help", False, "", short_name="h", flag_values=named)
    flags.DEFINE_boolean("print-config", False, "", flag_values=named)
    named.set_gnu_getopt(True)
    try:
        return named, named(argv, known_only=True)
    except flags.Error as error:
        raise UserError(f"{error}.") from error


def value_at(tree: ConfigDict, path: str):
    """The value of a field such as "stages[0].seq_len". Raises UserError where there is no such field."""
    if not _PATH.fullmatch(path):
        raise UserError(f"--config.{path} is not a field; fields are model.layers, stages[0].seq_len and so on.")
    node, level = tree, ""
    for part in _PART.findall(path):
        if part.startswith("["):
            index, size = int(part[1:-1]), len(node) if isinstance(node, tuple | list) else 0
            if not -size <= index < size:
                entries = f"it has {level}[0] to {level}[{size - 1}]" if size else f"{level} has no entries"
                raise UserError(f"{path}: there is no {level}{part}; {entries}.")
            node, level = node[index], level + part
        elif isinstance(node, ConfigDict) and part in node:
            node, level = node[part], f"{level}.{part}" if level else part
        else:
            raise files.unknown_field(tree, path, level, node if isinstance(node, ConfigDict) else ())
    return node


def _override(arg: str) -> str:
    """The field that --config.field[=value] names. Raises UserError for any other flag."""
    match = _OVERRIDE.match(arg)
    if match:
        return match[1]
    name, known = arg.split("=")[0], ["--config", "--workdir", "--help", "--print-config"]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(f"{name} is not a known flag.{hint} Known: {', '.join(known)}, --config.field=value.")


def _overridden(config: ConfigDict, paths: list[str], argv: list[str]) -> ConfigDict:
    """`config` with every --config.path=value of argv set, the values converted to their fields' types."""
    for path in paths:
        group = value_at(config, path)
        if isinstance(group, ConfigDict):
            first = next(iter(group))
            raise UserError(
                f"{path} is a group of fields; set them one by one, as in --config.{path}.{first}. "
                f"Fields of {path}: {', '.join(group)}."
            )
        if path.endswith("]"):
            whole = path[: path.rindex("[")]
            example = f"--config.{whole}={value_at(config, whole)}"
            raise UserError(f"{path} is an entry of a tuple; set all of it, as in {example}.")
    overrides = flags.FlagValues()
    overrides.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=overrides, sys_argv=argv)
        positional = overrides(argv)[1:]
    except (flags.Error, TypeError, ValueError) as error:
        raise _bad_value(config, paths, str(error)) from error
    if positional:
        raise UserError(f"argument {positional[0]!r} belongs to no flag; a config file is --config {positional[0]}.")
    return config


def _bad_value(config: ConfigDict, paths: list[str], message: str) -> UserError:
    """The error for a value that absl refuses with `message`, with the type that the field has."""
    match = re.match(r"flag --config\.(.*?)=(.*?): ", message, re.DOTALL)
    if not match or match[1] not in paths:
        return UserError(message if message.endswith(".") else message + ".")
    path, value = match[1], match[2]
    level, _, name = path.rpartition(".")
    group, current = value_at(config, level) if level else config, value_at(config, path)
    kind = group.get_type(name) if name in group else type(current)
    example = "" if current in (None, ()) else f", such as {current!r}"
    return UserError(f"{path}={value!r} must be {kind.__name__}{example}.")
