"""A training step whose device memory does not grow with the length of a row.

It goes through the model layer by layer, a chunk of every row at a time, forward and backward, with the layers' inputs
in host memory. CLIPS names the ways to clip gradients that never exist all at once.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {"CLIPS": "longctx.streaming.step:CLIPS", "streamed": "longctx.streaming.step:streamed"}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
