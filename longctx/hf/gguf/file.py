"""A GGUF file: metadata, and tensors that are dequantized when they are asked for. Knows no model. Free of jax."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from longctx.errors import UserError
from longctx.hf import files
from longctx.hf.gguf import header, quantized

CODES = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F64"}  # what is stored as it is; all else is quantized
# forms of tensors, see Tensor
PLAIN, LLAMA_HEADS, PLUS_ONE, QUERIES_FIRST = "plain", "llama_heads", "plus_one", "queries_first"


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
      kind: of its values in the file.
      form: "llama_heads": in each head of `heads`, the rows i and i + H/2 that RoPE turns together lie side by side;
        "plus_one": the weight is stored with 1 added; "queries_first": the rows of all queries, of all keys, of all
        values, where Hugging Face has those of head 0, of head 1, ...; "plain": none of these.
    """

    kind: str = "F32"
    form: str = PLAIN
    heads: int = 0

    def view(self) -> np.ndarray:
        """The tensor as Hugging Face stores it, dequantized in memory."""
        size = _header(self.path, _stamp(self.path)).tensors[self.name].bytes
        content = np.fromfile(self.path, np.uint8, size, offset=self.offset)
        if self.kind in CODES:
            values = content.view(self.dtype).reshape(self.shape)
        else:
            values = quantized.dequantized(self.kind, content, self.shape)
        if self.form == PLUS_ONE:
            return values - np.ones((), values.dtype)
        if self.form == LLAMA_HEADS:
            split = values.reshape(self.heads, -1, 2, *self.shape[1:])  # N H/2 2 ...
            return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(self.shape)
        if self.form == QUERIES_FIRST:
            split = values.reshape(3, self.heads, -1, *self.shape[1:])  # 3 N H ...
            return np.ascontiguousarray(split.swapaxes(0, 1)).reshape(self.shape)
        return values

    def views(self) -> Callable[[], np.ndarray]:
        """A function that returns the tensor, which is dequantized once."""
        values = self.view()
        return lambda: values


def metadata(path: pathlib.Path) -> Metadata:
    """The metadata of a file. Raises UserError for a file that is no GGUF file, or damaged."""
    return Metadata(_header(path, _stamp(path)).metadata, path)


def tensors(path: pathlib.Path) -> dict[str, Tensor]:
    """{name in the file: Tensor in plain form}. Raises UserError as `metadata`, and for unknown quantizations."""
    found = {}
    for name, (kind, shape, offset, _) in _header(path, _stamp(path)).tensors.items():
        if kind not in CODES and kind not in quantized.KINDS and kind not in quantized.known():
            names = ", ".join(sorted({*CODES, *quantized.known()}))
            raise UserError(f"{path}: {name} has the type {kind}; known: {names}.")
        found[name] = Tensor(path, name, offset, CODES.get(kind, "F32"), shape, kind=kind)
    return found


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _header(path: pathlib.Path, stamp: tuple[int, int]) -> header.Header:
    """The file's header; stamp: tells a file from one that has taken its place."""
    try:
        return header.read(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no GGUF file of version 2 or 3, or it is cut short ({error}).") from error
