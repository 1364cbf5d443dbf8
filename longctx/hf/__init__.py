"""Models of Hugging Face: `load` one, `save` one, or ask for its `model_config` without jax."""

from longctx.hf.folder import model_config

__all__ = ["Model", "load", "model_config", "save"]


def __getattr__(name: str):
    """What needs jax is imported when it is asked for."""
    if name in __all__:
        from longctx.hf import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
