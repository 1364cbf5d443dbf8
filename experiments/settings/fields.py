"""All settings with their defaults and comments, for --help; and the settings of a command line, for --print-config.

The comments are those beside the fields in longctx/config.py and experiments/settings/tree.py. Free of jax.
"""

import dataclasses
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any

from experiments.settings.tree import Settings
from longctx.config import SourceConfig
from longctx.json_files import leaves

WIDTH, COLUMN, INDENT = 120, 44, 4  # letters of a line, of a setting before its comment, before a field in its class


def table() -> str:
    """Every setting as "model.layers=4" with its comment; a group begins with what it is."""
    defaults = Settings()
    several = *_groups("stages[i].", defaults.stages[0]), *_groups("data.mix[i].", SourceConfig())
    groups = [*_groups("", defaults), *several]
    blocks = ["\n".join([*_header(prefix, group), *_lines(prefix, group)]) for prefix, group in groups]
    return "\n\n".join(blocks)


def _groups(prefix: str, group) -> Iterator[tuple[str, Any]]:
    """Yields (prefix, group) of a group of settings, and of those in it."""
    yield prefix, group
    for name, value in _values(group):
        if dataclasses.is_dataclass(value):
            yield from _groups(f"{prefix}{name}.", value)


def _header(prefix: str, group) -> list[str]:
    return [f"{prefix.rstrip('.')}: {inspect.getdoc(type(group)).splitlines()[0]}"] if prefix else []


def flat(tree) -> list[str]:
    """The settings of a tree, each as a command line takes it: --config.model.layers=4."""
    said = {path: value for path, value in leaves(tree).items() if value is not None}  # None: as the model has it
    return [f"--config.{path}={value if isinstance(value, str) else repr(value)}" for path, value in said.items()]


def _lines(prefix: str, group) -> list[str]:
    """A line or more for each setting of a group that is no group itself."""
    lines, said = [], _comments(type(group))
    for name, value in _values(group):
        if dataclasses.is_dataclass(value) or name == "stages":
            continue
        setting = f"  {prefix}{name}={value!r}"
        comment = textwrap.wrap(said.get(name, ""), WIDTH - COLUMN - 2) or [""]
        if len(setting) > COLUMN:
            lines.append(setting)
            setting = ""
        lines += [f"{setting if i == 0 else '':{COLUMN}}  {line}".rstrip() for i, line in enumerate(comment)]
    return [line for line in lines if line]


def _values(group) -> list[tuple[str, Any]]:
    return [(field.name, getattr(group, field.name)) for field in dataclasses.fields(group)]


@functools.cache
def _comments(group: type) -> dict[str, str]:
    """{field: its comment} of a dataclass and those that it extends.

    A comment stands beside its field and goes on below, further to the right; or in lines of its own before the field.
    """
    found: dict[str, list[str]] = {}
    for kind in reversed([kind for kind in group.__mro__ if dataclasses.is_dataclass(kind)]):
        source = textwrap.dedent(inspect.getsource(kind))
        names, name, before = {field.name for field in dataclasses.fields(kind)}, "", []
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            text = token.string.removeprefix("#").strip()
            if token.type == tokenize.NAME and token.start[1] == INDENT and token.string in names:
                name, found[token.string], before = token.string, before, []
            elif token.type == tokenize.COMMENT and token.start[1] == INDENT:
                before.append(text)
            elif token.type == tokenize.COMMENT and name:
                found[name].append(text)
    return {name: " ".join(parts) for name, parts in found.items()}
