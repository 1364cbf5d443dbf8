"""Parameters by dotted paths, such as "blocks.0.attention.wq", and the patterns that name some of them.

The number behind "blocks" is that of a kind of layers (ModelConfig.pattern), which are stacked. A pattern of fnmatch
matches a whole path, or the part of it inside a layer. Of an adapted weight (model.linear.Adapted) the path is that of
the weight, with ".a" or ".b" for its adapters.
"""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from longctx.errors import UserError

BASE, ADAPTERS = "base", ("a", "b")  # names of what an Adapted holds
_SHOWN = 8


def is_adapted(tree) -> bool:
    """Whether a part of a tree of parameters is an adapted weight, of which the leaves are named as above."""
    return isinstance(tree, dict) and tree.keys() == {BASE, *ADAPTERS}


def leaves(params: dict, at: str = "") -> Iterator[tuple[str, Any]]:
    """(path, parameter) of every leaf of nested dicts."""
    for name, value in params.items():
        path = _below(at, name)
        if isinstance(value, dict):
            yield from leaves(value, path)
        else:
            yield path, value


def _below(at: str, name) -> str:
    return at if name == BASE else f"{at}.{name}".lstrip(".")


def picked(params: dict, wanted: Callable[[str], bool], at: str = "") -> dict:
    """The part of nested dicts whose paths are `wanted`; a dict with nothing of it is left out."""
    part = {}
    for name, value in params.items():
        path = _below(at, name)
        if isinstance(value, dict):
            if inside := picked(value, wanted, path):
                part[name] = inside
        elif wanted(path):
            part[name] = value
    return part


def joined(params: dict, part: dict) -> dict:
    """Nested dicts with the leaves of `part`, as of `picked`, in place of their own, or beside them."""
    return params | {
        name: joined(params.get(name, {}), value) if isinstance(value, dict) else value for name, value in part.items()
    }


def alike(params: dict, part: dict) -> dict:
    """The part of nested dicts that has the leaves of `part`, another tree of theirs."""
    wanted = dict(leaves(part))
    return picked(params, wanted.__contains__)


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names a parameter: by its whole path, or by the part inside a layer."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in (path, inside(path)))


def inside(path: str) -> str:
    """The part of a path inside a layer: "attention.wq" of "blocks.0.attention.wq"; other paths as they are."""
    return path.split(".", 2)[2] if path.startswith("blocks.") else path


def check(field: str, patterns: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises UserError for the first pattern that names none of the `known` paths, which are of `what`."""
    known = list(known)
    for i, pattern in enumerate(patterns):
        if not any(matches(pattern, path) for path in known):
            names = list(dict.fromkeys(map(inside, known)))
            near = difflib.get_close_matches(pattern.replace("*", ""), names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            listed = f"{', '.join(names[:_SHOWN])}{more}"
            raise UserError(f"{field}[{i}]={pattern!r} matches no {what}.{hint} There are: {listed}.")
