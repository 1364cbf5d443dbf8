"""Settings from config files and command lines: reading them, checking them, and saying what is wrong. Free of jax.

A config file imports its names from here:

    from experiments.settings import arguments, defaults, rope, stage

    def get_config(arg: str = ""):
        args = arguments(arg, length=2048)
        config = defaults()
        config.stages = (stage(seq_len=args.length, steps=100, rope=rope(theta=3e4)),)
        return config

`models` has the sizes of published models.
"""

import importlib

__all__ = ["arguments", "defaults", "layer", "rope", "source", "stage"]


def __getattr__(name: str):
    """The names in __all__, imported on first use: other files of this package need no ml_collections."""
    if name in __all__:
        return getattr(importlib.import_module("experiments.settings.config"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
