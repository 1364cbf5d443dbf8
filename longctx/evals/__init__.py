"""Measurements of a model on held-out documents and generated tasks; api.py lists them in EVALS.

predictor.py makes the function of a batch that every task reads a model by, on any mesh.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {"EVALS": "longctx.evals.api:EVALS", "Prediction": "longctx.evals.batches:Prediction"}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
