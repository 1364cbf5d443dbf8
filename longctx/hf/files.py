"""Safetensors files: tensors as views of the disk, written in shards. Knows numpy and the format, and no model.

A file is 8 bytes that give the length of a JSON header, the header (name -> dtype, shape, offsets), and the raw little
endian values. A model in several files has an index (tensor -> file) beside them.
"""
import dataclasses
import json
import math
import pathlib
import struct

import ml_dtypes
import numpy as np

from longctx.errors import UserError

DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16),
          "F64": np.dtype(np.float64)}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_LONGEST_HEADER = 10**8                 # bytes; what other readers of the format accept


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor on the disk."""
    path: pathlib.Path
    offset: int                         # of its first byte in the file
    code: str                           # of its dtype
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return DTYPES[self.code]

    def view(self) -> np.ndarray:
        """The tensor as a memory map: only what is copied from it is read, and memory is free once it is dropped."""
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def tensors(folder: pathlib.Path) -> dict[str, Stored]:
    """Every tensor of the model in a folder.

    Raises:
      UserError: where there is none, a file is missing, truncated or damaged, or a dtype cannot be read.
    """
    found = {}
    for path in _paths(folder):
        found |= _header(path)
    return found


def read_json(path: pathlib.Path) -> dict:
    """The object in a JSON file. Raises UserError for anything else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content


def _paths(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        others = f"; {pickled[0]} is pickled, convert it with save_pretrained of transformers" if pickled else ""
        raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}{others}.")
    named = read_json(folder / INDEX).get("weight_map")
    if not isinstance(named, dict):
        raise UserError(f"{folder / INDEX} has no weight_map.")
    names = sorted(set(named.values()))
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise UserError(f"{folder / INDEX} names files that are missing: {some(missing)}.")
    return [folder / name for name in names]


def _header(path: pathlib.Path) -> dict[str, Stored]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
        if length > min(size - 8, _LONGEST_HEADER):
            raise UserError(f"{path} is truncated or no safetensors file: its {size} bytes hold no header.")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        found = {name: Stored(path, 8 + length + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
                 for name, entry in entries.items()}
        ends = {name: 8 + length + entry["data_offsets"][1] for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(f"{path} has a damaged header.") from error
    for name, stored in found.items():
        if stored.code not in DTYPES:
            raise UserError(f"{path}: {name} has dtype {stored.code}; known: {', '.join(DTYPES)}.")
        if ends[name] != stored.offset + math.prod(stored.shape) * stored.dtype.itemsize:
            raise UserError(f"{path} has a damaged header: {name} has not the size of its shape {stored.shape}.")
        if ends[name] > size:
            raise UserError(f"{path} is truncated: {name} ends at byte {ends[name]} of {size}.")
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
    names = [SINGLE] if len(shards) == 1 else [f"model-{i:05}-of-{len(shards):05}.safetensors"
                                               for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        if active:
            _write_file(folder / name, {tensor: planned[tensor] for tensor in shard}, value)
        else:
            for tensor in shard:
                value(tensor)
    if active and len(shards) > 1:
        where = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(one.bytes for one in planned.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _shards(planned: dict[str, Planned], max_shard_size: int) -> list[list[str]]:
    shards, room = [[]], max_shard_size
    for name, one in planned.items():
        if one.bytes > room and shards[-1]:
            shards.append([])
            room = max_shard_size
        shards[-1].append(name)
        room -= one.bytes
    return shards


def _write_file(path: pathlib.Path, planned: dict[str, Planned], value) -> None:
    header, at = {"__metadata__": {"format": "pt"}}, 0          # transformers asks for the format
    for name, one in planned.items():
        header[name] = {"dtype": _CODES[one.dtype], "shape": one.shape, "data_offsets": (at, at + one.bytes)}
        at += one.bytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)                               # values begin aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name, one in planned.items():
            array = value(name)
            assert (array.shape, array.dtype) == (one.shape, one.dtype), name
            file.write(np.ascontiguousarray(array).view(np.uint8).data)


def some(names, count: int = 4) -> str:
    """The first few of a list of names, and how many others there are."""
    names = list(names)
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
