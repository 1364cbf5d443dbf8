"""The tiny models of tests/golden/hf as folders of Hugging Face, and what transformers computes with them."""

import json
import pathlib

import numpy as np

from longctx.hf import files
from tests.helpers import ROOT
from tests.longctx.hf.tiny_weights import weights

GOLDEN = ROOT / "tests/golden/hf"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
V5, V4 = "config.json", "config_legacy.json"


def config(name: str, dialect: str = V5) -> dict:
    return json.loads((GOLDEN / name / dialect).read_text())


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / name / "golden.npz"))


def tensors(name: str, dtype=np.float32) -> dict[str, np.ndarray]:
    shapes = json.loads(str(golden(name)["shapes"]))
    return {tensor: value.astype(dtype) for tensor, value in weights(shapes).items()}


def write(folder: pathlib.Path, name: str, values: dict | None = None, max_shard_size: int = 10**9, **settings):
    """The folder of a model; values: other tensors than its own; settings: changed in config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    values = tensors(name) if values is None else values
    planned = {tensor: files.Planned(value.shape, value.dtype) for tensor, value in values.items()}
    files.write(folder, planned, values.__getitem__, max_shard_size)
    (folder / V5).write_text(json.dumps(config(name) | settings))
    return folder


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Every tensor in a folder."""
    return {name: np.array(stored.view()) for name, stored in files.tensors(folder).items()}


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """Asserts that two checkpoints hold equal tensors, bit by bit."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == value.dtype, name
        np.testing.assert_array_equal(got[name].view(np.uint8), value.view(np.uint8), err_msg=name)
