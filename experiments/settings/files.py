"""Config files: running one, reading its arguments, and errors that name the line or the field."""

import difflib
import importlib.util
import inspect
import linecache
import pathlib
import re
import traceback
import types
from collections.abc import Collection, Iterator

from ml_collections import config_dict
from ml_collections.config_dict import ConfigDict

from longctx.errors import UserError, unknown_name

# Errors of a config file that become one line. Any other is no slip in a settings file, and keeps its traceback.
FILE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    config_dict.MutabilityError,
    config_dict.RequiredValueError,
)


def load(text: str, fields: ConfigDict) -> ConfigDict:
    """The result of get_config in a config file. text: "FILE" or "FILE:arguments".

    fields: every field with its default, from which to suggest one for a field that does not exist.

    Raises UserError where there is no such file, where it is no config file, or where it fails, then with the line.
    """
    name, colon, argument = text.partition(":")
    path = _shipped(pathlib.Path(name))
    if path.suffix != ".py" or not path.is_file():
        raise _no_file(name)
    try:
        get_config = getattr(_module(path), "get_config", None)
        if get_config is None:
            raise UserError(f"--config {name} has no function get_config(); it must return the settings.")
        if colon and not inspect.signature(get_config).parameters:
            raise UserError(f"--config {text}: {name} takes no arguments; leave out {colon + argument!r}.")
        config = get_config(argument) if colon else get_config()
    except UserError:
        raise
    except FILE_ERRORS as error:
        raise _failure(path, error, fields) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config {name}: get_config() must return experiments.settings.defaults() with "
            f"changes, not {type(config).__name__}."
        )
    return config


def _shipped(path: pathlib.Path) -> pathlib.Path:
    """The path, or where no such file exists, the package's file of that name: configs/quickstart.py in any folder."""
    package = pathlib.Path(__file__).parents[1]
    candidates = [path, *((root / path) for root in (package.parent, package) if path.parts[:1] == ("configs",))]
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def arguments(text: str, **defaults) -> types.SimpleNamespace:
    """The arguments of a config file, from a text such as "context=4,smoke", each in the type of its default.

    Raises UserError for an argument that is not in `defaults`, or a value of another type.
    """
    values = dict(defaults)
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, equals, value = item.partition("=")
        if name not in defaults:
            raise unknown_name("config argument", name, defaults)
        values[name] = _typed(name, value if equals else None, defaults[name])
    return types.SimpleNamespace(**values)


def unknown_field(fields: ConfigDict, path: str, level: str, known: Collection[str]) -> UserError:
    """The error for a field `path` that does not exist; it suggests the nearest of all `fields`.

    level: the dotted path of the deepest group that exists; known: its fields.
    """
    everywhere = list(_paths(fields))
    namesakes = [field for field in everywhere if field.split(".")[-1] == path.split(".")[-1]]
    near = difflib.get_close_matches(path, namesakes or everywhere, n=1, cutoff=0.0 if namesakes else 0.6)
    if not near:  # `path` may be short, as the config file had the group in a variable
        missing = path.removeprefix(level).lstrip(".").split(".")[0]
        near = [f"{level}.{name}".lstrip(".") for name in difflib.get_close_matches(missing, list(known), n=1)]
    hint = f" Did you mean {near[0]}?" if near else ""
    group = f" Fields{f' of {level}' if level else ''}: {', '.join(known)}." if known else ""
    return UserError(f"config has no field {path}.{hint}{group}")


def _paths(tree, prefix: str = "") -> Iterator[str]:
    """Every field and group of fields below `tree`, dotted."""
    if isinstance(tree, ConfigDict):
        for name, value in tree.items():
            path = f"{prefix}.{name}" if prefix else name
            yield path
            yield from _paths(value, path)
    elif isinstance(tree, tuple | list):
        for i, value in enumerate(tree):
            yield from _paths(value, f"{prefix}[{i}]")


def _typed(name: str, value: str | None, default):
    """An argument's value in the type of its default; value: None where only the name is given. Raises UserError."""
    if isinstance(default, bool):
        words = {None: True, "true": True, "1": True, "false": False, "0": False}
        word = value and value.lower()
        if word in words:
            return words[word]
    elif value is None:
        raise UserError(f"config argument {name} needs a value, such as {name}={default}.")
    else:
        try:
            return type(default)(value)
        except ValueError:
            pass
    raise UserError(f"config argument {name}={value!r} must be {type(default).__name__}, such as {name}={default}.")


def _module(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_file_{path.stem}", path.absolute())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _no_file(name: str) -> UserError:
    """The error for a name that is no config file; it suggests the nearest file beside it or in configs/."""
    path, configs = pathlib.Path(name), pathlib.Path("configs")
    files = [*sorted(path.parent.glob("[!_]*.py")), *sorted(configs.rglob("[!_]*.py"))]
    by_stem = {file.stem: file for file in files}
    near = difflib.get_close_matches(path.stem, by_stem, n=1)
    hint = f" Did you mean {by_stem[near[0]]}?" if near else ""
    listed = ", ".join(str(file.relative_to(configs)) for file in by_stem.values() if configs in file.parents)
    problem = "is not a Python file" if path.exists() else "does not exist"
    return UserError(f"--config {name} {problem}.{hint} In configs/: {listed or 'nothing'}.")


def _failure(path: pathlib.Path, error: BaseException, fields: ConfigDict) -> UserError:
    """The error for a config file that raised: the line, and an unknown field by its full name or else the error."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path.absolute())]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    where = f"--config {path}" + (f", line {line}" if line else "")
    name, group = _missing(error)
    if name is None or not frames:
        reason = (str(error).splitlines() or [""])[0]
        return UserError(f"{where} raised {type(error).__name__}: {reason}")
    source = linecache.getline(frames[-1].filename, line)
    chains = [match[1].split(".") for match in re.finditer(r"\b\w+\.((?:[\w.]|\[\d+\])+)", source)]  # config.a.b: a.b
    chain = next((chain for chain in chains if name in chain), [name])
    return UserError(f"{where}: {unknown_field(fields, '.'.join(chain), '.'.join(chain[: chain.index(name)]), group)}")


def _missing(error: BaseException) -> tuple[str | None, ConfigDict | None]:
    """(the name that a ConfigDict did not have, the ConfigDict); (None, None) for any other error."""
    if isinstance(error, AttributeError) and isinstance(error.obj, ConfigDict):
        return error.name, error.obj
    match = re.search(r'Key "(\w+)" does not exist and cannot be added', str(error))
    groups = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    groups = [group for group in groups if isinstance(group, ConfigDict)]
    return (match[1], groups[-1]) if match and groups else (None, None)
