"""The decoder: flax nnx modules, and functional.py, the only place that splits and merges them.

`graph` is the static part of a model and `init` its parameters, a nested dict of arrays; `hidden`, `logits` and `nll`
are functions of both and a batch.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "graph": "longctx.model.functional:graph",
    "hidden": "longctx.model.functional:hidden",
    "init": "longctx.model.functional:init",
    "logits": "longctx.model.functional:logits",
    "merged": "longctx.model.functional:merged",
    "nll": "longctx.model.functional:nll",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
