"""Position methods: how the place of a token enters the scores of attention.

scalings.py holds RoPE's scalings by name (SCALINGS, whose inverse frequencies `frequencies` gives), methods.py the
methods of a layer (METHODS), query_scale.py factors on queries, augment.py changes of positions in training, and
extension.py the ways to read a model beyond the length that it was trained at.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "METHODS": "longctx.positions.methods:METHODS",
    "Method": "longctx.positions.methods:Method",
    "SCALINGS": "longctx.positions.scalings:SCALINGS",
    "check": "longctx.positions.api:check",
    "frequencies": "longctx.positions.api:frequencies",
    "parse": "longctx.positions.methods:parse",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
