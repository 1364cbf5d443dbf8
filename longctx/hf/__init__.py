"""Hugging Face models: `load` one, `save` one, or read its `model_config` without jax."""

from longctx.hf.folder import model_config

__all__ = ["Model", "load", "model_config", "save"]


def __getattr__(name: str):
    """Model, load and save, imported on first use: they need jax."""
    if name in __all__:
        from longctx.hf import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
