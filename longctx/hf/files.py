"""Safetensors files: one, or several with an index {tensor: file} beside them. Knows no model."""

import dataclasses
import json
import math
import pathlib
import re
import zlib
from collections.abc import Callable

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from longctx.errors import UserError
from longctx.hf.fields import shown
from longctx.json_files import read_object

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F64": np.dtype(np.float64),
}
HEAD = 1 << 20  # bytes at either end of a file that tell it from others
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Stored:
    """The place, dtype and shape of a tensor in a file."""

    path: pathlib.Path
    name: str
    offset: int  # of its first byte in the file
    code: str  # of its dtype
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """The tensor's numpy dtype. Raises UserError for a dtype that no parameter has."""
        if self.code not in DTYPES:
            raise UserError(f"{self.path}: {self.name} has dtype {self.code}; known: {', '.join(DTYPES)}.")
        return DTYPES[self.code]

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        bits = re.search(r"\d+", self.code)  # "BF16"; BOOL takes a byte
        return math.prod(self.shape) * int(bits[0] if bits else 8) // 8

    def view(self) -> np.ndarray:
        """The tensor as a memory map: only what is copied is read, and dropping the map frees its memory."""
        if not self.bytes:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)

    def views(self) -> Callable[[], np.ndarray]:
        """A function that returns the tensor at every call, for who reads it part by part: here in a map of its own."""
        return self.view


def tensors(folder: pathlib.Path) -> dict[str, Stored]:
    """{name: Stored} of every tensor in a model's folder.

    Raises:
      UserError: where there are no tensors, or a file is missing, truncated or damaged.
    """
    stored = {}
    for path in _paths(folder):
        stored |= header(path)
    return stored


def _paths(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        others = f"; {pickled[0]} is pickled, convert it with save_pretrained of transformers" if pickled else ""
        raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}{others}.")
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{folder / INDEX} has no weight_map.")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or name in ("", "..") or name != pathlib.Path(name).name or "\0" in name:
            raise UserError(
                f"{folder / INDEX}: weight_map: {shown(tensor, name)} must be the name of a file beside it."
            )
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder / INDEX} names files that are missing: {listed(missing)}.")
    return [folder / name for name in names]


def header(path: pathlib.Path) -> dict[str, Stored]:
    """{name: Stored} of every tensor in one file. Raises UserError where it is truncated or damaged."""
    with path.open("rb") as file:
        offset = 8 + int.from_bytes(file.read(8), "little")  # the header's length, the header, the values
    stored = {}
    try:
        with safe_open(path, "np") as file:  # it has checked that values lie one behind the other
            for name in file.offset_keys():
                part = file.get_slice(name)
                stored[name] = Stored(path, name, offset, part.get_dtype(), tuple(part.get_shape()))
                offset += stored[name].bytes
    except SafetensorError as error:
        raise UserError(f"{path} is truncated or damaged ({error}).") from error
    return stored


def stamp(path: pathlib.Path, start: int = 0) -> int:
    """A checksum of a file's size and of what is at either end of it: its header, and its last weights."""
    size = path.stat().st_size
    with path.open("rb") as opened:
        first = opened.read(HEAD)
        opened.seek(max(0, size - HEAD))
        return zlib.crc32(opened.read(), zlib.crc32(first, zlib.crc32(f"{start} {size}".encode())))


@dataclasses.dataclass(frozen=True)
class Planned:
    """Shape and dtype of a tensor that will be written."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(folder: pathlib.Path, planned: dict[str, Planned], value, max_shard_size: int, active: bool = True) -> None:
    """Writes tensors to one file, or to several of at most `max_shard_size` bytes (or one larger tensor) and an index.

    Args:
      value: name -> array, called once for each tensor, in order.
      active: False calls `value` and writes nothing.
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
            save(values, folder / name)
    if active and len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.bytes for tensor in planned.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def save(values: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Writes one file. Raises UserError where the disk refuses."""
    try:
        save_file(values, path, {"format": "pt"})  # transformers asks for the format
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be written: {error}.") from error


def _shards(planned: dict[str, Planned], max_shard_size: int) -> list[list[str]]:
    """The names of the tensors in each file."""
    shards, room = [[]], max_shard_size
    for name, tensor in planned.items():
        if tensor.bytes > room and shards[-1]:
            shards.append([])
            room = max_shard_size
        shards[-1].append(name)
        room -= tensor.bytes
    return shards


def listed(names, count: int = 4) -> str:
    """The first `count` names, and the number of the others: "a, b, c, d and 12 more"."""
    names = list(names)
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
