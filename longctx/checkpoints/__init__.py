"""Checkpoints: saved so that a kill at any moment loses nothing, and bound to the run that made them.

checkpointer.py saves and restores, manifest.py seals a step and verifies it, identity.py (free of jax) compares runs.
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "Checkpointer": "longctx.checkpoints.checkpointer:Checkpointer",
    "Restored": "longctx.checkpoints.checkpointer:Restored",
    "load_latest": "longctx.checkpoints.checkpointer:load_latest",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
