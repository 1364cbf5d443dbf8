"""The user's folder of what can be made again. Free of jax."""

import os
import pathlib


def folder(name: str) -> pathlib.Path:
    """The folder `name` among longctx's caches, which need not exist.

    It is in $LONGCTX_CACHE, else in $XDG_CACHE_HOME/longctx, else in ~/.cache/longctx.
    """
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("LONGCTX_CACHE") or pathlib.Path(home) / "longctx") / name
