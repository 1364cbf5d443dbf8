"""Safetensors files, one or several with an index (tensor -> file) beside them. Knows no model."""

import dataclasses
import json
import math
import pathlib
import re

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from longctx.errors import UserError
from longctx.hf.fields import said
from longctx.json_files import read_object

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F64": np.dtype(np.float64),
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor on the disk."""

    path: pathlib.Path
    name: str
    offset: int  # of its first byte in the file
    code: str  # of its dtype
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Raises UserError for one that no parameter has."""
        if self.code not in DTYPES:
            raise UserError(f"{self.path}: {self.name} has dtype {self.code}; known: {', '.join(DTYPES)}.")
        return DTYPES[self.code]

    @property
    def bytes(self) -> int:
        bits = re.search(r"\d+", self.code)  # "BF16"; BOOL takes a byte
        return math.prod(self.shape) * int(bits[0] if bits else 8) // 8

    def view(self) -> np.ndarray:
        """The tensor as a memory map: only what is copied from it is read, and memory is free once it is dropped."""
        if not self.bytes:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def tensors(folder: pathlib.Path) -> dict[str, Stored]:
    """Every tensor of the model in a folder.

    Raises:
      UserError: where there is none, a file is missing, truncated or damaged.
    """
    found = {}
    for path in _paths(folder):
        found |= _header(path)
    return found


def _paths(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        others = f"; {pickled[0]} is pickled, convert it with save_pretrained of transformers" if pickled else ""
        raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}{others}.")
    named = read_object(folder / INDEX).get("weight_map")
    if not isinstance(named, dict):
        raise UserError(f"{folder / INDEX} has no weight_map.")
    for tensor, name in named.items():
        if not isinstance(name, str) or name in ("", "..") or name != pathlib.Path(name).name or "\0" in name:
            raise UserError(f"{folder / INDEX}: weight_map: {said(tensor, name)} must be the name of a file beside it.")
    names = sorted(set(named.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder / INDEX} names files that are missing: {some(missing)}.")
    return [folder / name for name in names]


def _header(path: pathlib.Path) -> dict[str, Stored]:
    with path.open("rb") as file:
        at = 8 + int.from_bytes(file.read(8), "little")  # the header's length, the header, the values
    found = {}
    try:
        with safe_open(path, "np") as file:  # it has checked that they lie one behind the other
            for name in file.offset_keys():
                part = file.get_slice(name)
                found[name] = Stored(path, name, at, part.get_dtype(), tuple(part.get_shape()))
                at += found[name].bytes
    except SafetensorError as error:
        raise UserError(f"{path} is truncated or damaged ({error}).") from error
    return found


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor to be written."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write(folder: pathlib.Path, planned: dict[str, Planned], value, max_shard_size: int, active: bool = True) -> None:
    """Writes a model: one file, or several of at most `max_shard_size` bytes (but for a larger tensor) and an index.

    value: name -> array, called once for each tensor, in order. active: False calls it and writes nothing.
    """
    shards = _shards(planned, max_shard_size)
    names = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    )
    for name, shard in zip(names, shards, strict=True):
        values = {tensor: array for tensor in shard if (array := value(tensor)) is not None and active}
        if active:
            _save(values, folder / name)
    if active and len(shards) > 1:
        where = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(one.bytes for one in planned.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _save(values: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """One file. Raises UserError where the disk does not take it."""
    try:
        save_file(values, path, {"format": "pt"})  # transformers asks for the format
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be written: {error}.") from error


def _shards(planned: dict[str, Planned], max_shard_size: int) -> list[list[str]]:
    shards, room = [[]], max_shard_size
    for name, one in planned.items():
        if one.bytes > room and shards[-1]:
            shards.append([])
            room = max_shard_size
        shards[-1].append(name)
        room -= one.bytes
    return shards


def some(names, count: int = 4) -> str:
    """The first few of a list of names, and how many others there are."""
    names = list(names)
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
