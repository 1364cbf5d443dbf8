"""Parameters that a command trained, kept in a folder so that a second start need not train again."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.settings.tree import Settings
from longctx import training


class Folder:
    """A folder of parameters by name. begun: whether what is in it belongs to this command; else it is removed."""

    def __init__(self, path: pathlib.Path, config: Settings, mesh, begun: bool):
        self.path, self._shapes = path, training.abstract_state(config, mesh)["params"]
        self._active = jax.process_count() == 1  # of several, none has all of the parameters
        if not begun and self._active:
            shutil.rmtree(path, ignore_errors=True)

    def kept(self, name: str, make: Callable[[], tuple[dict, dict]]) -> tuple[dict, dict]:
        """The (parameters, how their training went) under a name, made and kept where they are not there."""
        path = self.path / f"{name}.npz"
        if not path.exists():
            params, went = make()
            if self._active:
                self._save(path, params, went)
            return params, went
        leaves, tree = jax.tree.flatten(self._shapes)
        with np.load(path) as file:
            arrays = [jax.device_put(file[str(i)].view(x.dtype), x.sharding) for i, x in enumerate(leaves)]
            return jax.tree.unflatten(tree, arrays), json.loads(str(file["went"]))

    def _save(self, path: pathlib.Path, params: dict, went: dict) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new.npz")
        arrays: dict[str, Any] = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(params))}
        np.savez(unfinished, went=np.array(json.dumps(went)), **arrays)
        unfinished.rename(path)
