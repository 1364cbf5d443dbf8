"""Models of Hugging Face: `load` one, `save` one, or read its `model_config` without jax.

model = hf.load("FOLDER", rope_scaling={"rope_type": "yarn", "factor": 4.0})
tokens = model.generate(ids, max_new_tokens=100)
"""

from typing import Any

from pallas_kernels import lazy

NAMES = {
    "ARCHITECTURES": "longctx.hf.architectures:ARCHITECTURES",
    "Model": "longctx.hf.api:Model",
    "load": "longctx.hf.api:load",
    "model_config": "longctx.hf.folder:model_config",
    "save": "longctx.hf.api:save",
    "save_adapter": "longctx.hf.api:save_adapter",
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first asked for, or a module of this package."""
    return lazy.load(__name__, NAMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
