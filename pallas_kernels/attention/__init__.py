"""Attention as the mergeable pair (out, lse): `attention` by the best implementation that there is, or a named one.

reference.py is the definition, api.py chooses among IMPLEMENTATIONS, the other files and folders are fast.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "Grads": "pallas_kernels.attention.pair:Grads",
    "Inputs": "pallas_kernels.attention.pair:Inputs",
    "Pair": "pallas_kernels.attention.pair:Pair",
    "RowStats": "pallas_kernels.attention.pair:RowStats",
    "merge": "pallas_kernels.attention.pair:merge",
    "AttentionSpec": "pallas_kernels.attention.spec:AttentionSpec",
    "IMPLEMENTATIONS": "pallas_kernels.attention.api:IMPLEMENTATIONS",
    "attention": "pallas_kernels.attention.api:attention",
    "select": "pallas_kernels.attention.api:select",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
