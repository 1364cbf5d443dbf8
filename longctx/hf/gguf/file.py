"""A GGUF file: metadata, and tensors that are dequantized when they are asked for. Knows no model. Free of jax."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from longctx.errors import UserError
from longctx.hf import files

CODES = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F64"}  # what is stored as it is; all else is quantized
PLAIN, LLAMA_HEADS, PLUS_ONE = "plain", "llama_heads", "plus_one"  # forms of tensors, see Tensor


class Metadata(dict):
    """The metadata of a file by key. `path` is the file's; reading a key that is missing raises UserError."""

    def __init__(self, values: dict[str, Any], path: pathlib.Path):
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str):
        raise UserError(f"{self.path} has no {key!r} in its metadata, which a model needs.")


@dataclasses.dataclass(frozen=True)
class Tensor(files.Stored):
    """A tensor of a GGUF file. Quantized ones count as float32.

    Attributes:
      form: "llama_heads": in each head of `heads`, the rows i and i + H/2 that RoPE turns together lie side by side;
        "plus_one": the weight is stored with 1 added; "plain": neither.
    """

    form: str = PLAIN
    heads: int = 0

    def view(self) -> np.ndarray:
        """The tensor as Hugging Face stores it, in memory."""
        return _values(self)


def metadata(path: pathlib.Path) -> Metadata:
    """The metadata of a file. Raises UserError for a file that is no GGUF file, or damaged."""
    fields = _reader(path, _stamp(path)).fields
    return Metadata({name: field.contents() for name, field in fields.items()}, path)


def tensors(path: pathlib.Path) -> dict[str, Tensor]:
    """{name in the file: Tensor in plain form}. Raises UserError as `metadata`, and for unknown quantizations."""
    from gguf.quants import _type_traits

    found = {}
    for tensor in _reader(path, _stamp(path)).tensors:
        kind = tensor.tensor_type.name
        if kind not in CODES and tensor.tensor_type not in _type_traits:
            known = sorted(CODES) + sorted(known.name for known in _type_traits if known.name not in CODES)
            raise UserError(f"{path}: {tensor.name} has the type {kind}; known: {', '.join(known)}.")
        shape = tuple(int(size) for size in reversed(tensor.shape))
        found[tensor.name] = Tensor(path, tensor.name, int(tensor.data_offset), CODES.get(kind, "F32"), shape)
    return found


@functools.lru_cache(maxsize=1)
def _values(tensor: Tensor) -> np.ndarray:
    """The values of `tensor`: kept, as who reads its shards asks again and again, until another's are asked for."""
    from gguf.quants import dequantize

    stored = next(t for t in _reader(tensor.path, _stamp(tensor.path)).tensors if t.name == tensor.name)
    if stored.tensor_type.name in CODES:
        values = np.asarray(stored.data).view(tensor.dtype).reshape(tensor.shape)
    else:
        values = dequantize(stored.data, stored.tensor_type).reshape(tensor.shape)
    if tensor.form == PLUS_ONE:
        return values - np.ones((), values.dtype)
    if tensor.form == LLAMA_HEADS:
        split = values.reshape(tensor.heads, -1, 2, *tensor.shape[1:])  # N H/2 2 ...
        return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(tensor.shape)
    return values


def forget() -> None:
    """Frees the values that were read last."""
    _values.cache_clear()


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _reader(path: pathlib.Path, stamp: tuple[int, int]):
    """The library's reader; stamp: tells a file from one that has taken its place."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(f"{path}: gguf is not installed: pip install 'longctx[gguf]'.") from error
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise UserError(f"{path} is no GGUF file of version 2 or 3, or it is cut short ({error}).") from error
