"""Names of a package that are imported when they are first used, so that importing the package itself costs nothing.

    NAMES = {"attend": "longctx.context_parallel.api:attend"}       # in the __init__.py of longctx.context_parallel

    def __getattr__(name):                                          # PEP 562
        return lazy.load(__name__, NAMES, name)

Free of jax.
"""

import importlib
import sys
from collections import UserDict
from collections.abc import Mapping
from typing import Any


def load(package: str, names: Mapping[str, str], name: str) -> Any:
    """The object that `package.name` stands for: an entry of `names`, or a module inside the package.

    Args:
      package: its dotted name.
      names: name -> "module:attribute", or "module" for the module itself; all dotted names in full.
      name: the attribute that somebody asks the package for.

    Raises:
      AttributeError: for a name that is neither, with the nearest one.
    """
    if name in names:
        module, _, attribute = names[name].partition(":")
        loaded = importlib.import_module(module)
        return getattr(loaded, attribute) if attribute else loaded
    if not name.startswith("_") and _is_module(package, name):
        return importlib.import_module(f"{package}.{name}")
    # obj=None: or Python's traceback would make a suggestion of its own beside this one
    raise AttributeError(f"module {package!r} has no attribute {name!r}.{_near(name, names)}", obj=None)


class Registry(UserDict[str, Any]):
    """A registry by name, of objects and of the dotted names of modules, which are imported when first asked for.

    So that a process on a CPU need not import the compilers of Mosaic and Triton, a second each.
    """

    def __getitem__(self, name: str) -> Any:
        entry = self.data[name]
        return importlib.import_module(entry) if isinstance(entry, str) else entry


def _is_module(package: str, name: str) -> bool:
    import importlib.util

    return package in sys.modules and importlib.util.find_spec(f"{package}.{name}") is not None


def _near(name: str, names: Mapping[str, str]) -> str:
    if name.startswith("_"):  # what inspect and doctest look for everywhere
        return ""
    import difflib

    near = difflib.get_close_matches(name, names, n=1) or difflib.get_close_matches(
        name.lower(), [known for known in names if known.lower() == known], n=1
    )
    return f" Did you mean {near[0]!r}?" if near else ""
