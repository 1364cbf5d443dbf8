"""Memory of a step: what moves to host memory (host.py), what is computed again (remat.py), what is done tile by tile
(tiled.py), and how much is free (sizes.py)."""

from typing import Any

from pallas_kernels import lazy

NAMES = {"POLICIES": "longctx.memory.remat:POLICIES"}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
