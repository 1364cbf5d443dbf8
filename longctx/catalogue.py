"""A registry to look at: printing one lists its names, each with the first sentence of its docstring. Free of jax.

>>> print(lc.MASKS)
MASKS: 8 names
  full       Every query sees every key.
  causal     A query sees keys at its own position and before.
  ...
"""

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from longctx.errors import unknown_name


class Catalogue(Mapping[str, Any]):
    """A read-only view of a registry: a mapping from names to their entries, in the registry's order.

    Raises UserError, which is a ValueError, for a name that the registry does not hold; `get` returns None for it.
    """

    def __init__(self, name: str, entries: Mapping[str, Any]):
        """`name` is what messages call the registry `entries`."""
        self._name, self._entries = name, entries

    def __getitem__(self, name: str) -> Any:
        """The entry of that name."""
        if name not in self._entries:
            raise unknown_name(self._name, name, self._entries)
        return self._entries[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The entry of that name, or `default`."""
        return self._entries.get(name, default)

    def __contains__(self, name: object) -> bool:
        """Whether there is an entry of that name."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names in the registry's order."""
        return iter(self._entries)

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._entries)

    def __repr__(self) -> str:
        """A line for each entry: its name and what it is."""
        width = max(map(len, self._entries), default=0)
        short = {name: textwrap.shorten(summary(entry), 110) for name, entry in self._entries.items()}
        lines = [f"  {name:{width}}  {text}".rstrip() for name, text in short.items()]
        return "\n".join([f"{self._name}: {len(self)} names", *lines])


def document(entry: Any) -> str:
    """The docstring of a registry's entry, "" where it has none of its own.

    An entry is a function, a class, a module, an instance of a documented class, or a named tuple whose fields are
    such: then the first field that has a docstring speaks for it.
    """
    if isinstance(entry, tuple):
        return next(filter(None, (document(field) for field in entry if callable(field))), "")
    if inspect.isroutine(entry) or inspect.isclass(entry) or inspect.ismodule(entry):
        return inspect.cleandoc(entry.__doc__ or "")
    kind = type(entry)
    if kind.__module__ in ("builtins", "functools"):
        return ""  # the docstring of int or of partial says nothing about this entry
    return inspect.cleandoc(kind.__doc__ or "")


def summary(entry: Any) -> str:
    """The first sentence of an entry's docstring, on one line."""
    paragraph = " ".join(document(entry).split("\n\n")[0].split())
    return re.split(r"(?<=[.;])\s(?=[A-Z`\"(])", paragraph, maxsplit=1)[0]
