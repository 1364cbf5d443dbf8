"""Cross-entropy of a linear head as the pair (score of the target, log-sum-exp), with no array of logits.

reference.py is the definition, api.py chooses among IMPLEMENTATIONS, the other files and folders are fast.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "CrossEntropySpec": "pallas_kernels.cross_entropy.spec:CrossEntropySpec",
    "IMPLEMENTATIONS": "pallas_kernels.cross_entropy.api:IMPLEMENTATIONS",
    "head_scores": "pallas_kernels.cross_entropy.api:head_scores",
    "select": "pallas_kernels.cross_entropy.api:select",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
