"""Loading of parameters from the tensors of a checkpoint, and the making of those tensors, one at a time."""

import concurrent.futures
import dataclasses
import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from longctx.config import ModelConfig
from longctx.errors import UserError
from longctx.hf.architectures import Architecture
from longctx.hf.files import Planned, Stored, listed
from longctx.hf.settings import DTYPES
from longctx.hf.tensors import Piece
from longctx.memory.sizes import free_memory, readable

_AT_ONCE = 1 << 20  # bytes of a file that are copied at once; what is transposed stays in caches
READERS = min(4, os.cpu_count() or 1)  # layers that are read at once
# buffers in old files, which other settings determine
_DERIVED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The place of one parameter array in the checkpoint: one piece, or one per layer where layers are stacked."""

    shape: tuple[int, ...]  # without the axis of layers
    pieces: tuple[tuple[str, Piece], ...]  # (tensor, which part of it)
    stacked: bool

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the tensors that hold the parameter."""
        return {name: piece.shape(self.shape) for name, piece in self.pieces}


def locate(architecture: Architecture, config: ModelConfig, params):
    """A tree like `params` (arrays or their shapes) with a Parameter for each array."""
    kinds = config.kinds

    def parameter(path, leaf):
        first, *rest = (str(getattr(key, "key", getattr(key, "idx", None))) for key in path)
        if first != "blocks":
            piece = architecture.outside[".".join([first, *rest])]
            return Parameter(leaf.shape, ((piece.name, piece),), False)
        kind = int(rest[0])
        piece = architecture.layer(config, kinds[kind])[".".join(rest[1:])]
        layers = range(kind, config.layers, len(kinds))
        return Parameter(leaf.shape[1:], tuple((piece.name.format(layer=i), piece) for i in layers), True)

    return jax.tree_util.tree_map_with_path(parameter, params)


def check(located, stored: dict[str, Stored], tied: str | None, where: str) -> None:
    """UserError unless the `stored` tensors are exactly those of the model's Parameters, in name and shape.

    tied: the name of an output head that is tied to the embedding, which may be stored all the same.
    """
    expected = {}
    for parameter in _leaves(located):
        expected |= parameter.tensors()
    missing = [name for name in expected if name not in stored]
    unknown = [name for name in stored if name not in expected and name != tied and not name.endswith(_DERIVED)]
    shaped = [
        f"{name} is {list(stored[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    problems = [
        f"{len(names)} {what}: {listed(names)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shaped))
        if names
    ]
    if problems:
        raise UserError(f"{where} does not hold the tensors of its config.json: {'; '.join(problems)}.")


def require_room(located, shapes, stored: dict[str, Stored], dtype, where: str) -> None:
    """UserError where the parameters do not fit into free memory: the host's for CPU devices, else a device's.

    shapes: the arrays' shapes and shardings, on the mesh that is set. dtype: None is the file's.
    """
    mesh = jax.sharding.get_mesh()
    shard_size = lambda leaf: math.prod(NamedSharding(mesh, leaf.sharding.spec).shard_shape(leaf.shape))
    sizes = list(map(shard_size, jax.tree.leaves(shapes)))  # elements on each device
    itemsizes = [_dtype(parameter, stored, dtype).itemsize for parameter in _leaves(located)]
    needed = sum(size * itemsize for size, itemsize in zip(sizes, itemsizes, strict=True))
    devices = mesh.local_devices
    if devices[0].platform == "cpu":
        needed, narrow, free = needed * len(devices), 2 * sum(sizes) * len(devices), free_memory()
    else:
        narrow, memory = 2 * sum(sizes), devices[0].memory_stats() or {}
        free = memory["bytes_limit"] - memory["bytes_in_use"] if "bytes_limit" in memory else None
    if free is not None and needed > free:
        smaller = f"dtype='bfloat16' needs {readable(narrow)}; else" if narrow < needed else "it takes"
        raise UserError(
            f"{where}: the parameters need {readable(needed)} of this process's memory, and "
            f"{readable(free)} are free. {smaller} a mesh of more devices or a larger machine."
        )


def _dtype(parameter: Parameter, stored: dict[str, Stored], dtype) -> np.dtype:
    """The dtype that a parameter is loaded in; dtype: None is the file's."""
    return dtype or functools.reduce(jnp.promote_types, (stored[name].dtype for name, _ in parameter.pieces))


def load(parameter: Parameter, stored: dict[str, Stored], sharding: NamedSharding, dtype, compute) -> jax.Array:
    """The array of a parameter; each device's shard is read from the disk.

    Beside the result, host memory holds this process's shards of one layer's tensor: on a CPU layers are read to where
    the result lies, READERS at a time, elsewhere one after the other is sent to its device.

    Args:
      dtype: None is the file's.
      compute: the dtype that the model casts the array to.

    Raises:
      UserError: where a finite number would become infinite in either dtype.
    """
    dtype = _dtype(parameter, stored, dtype)
    if not parameter.stacked:
        return _read(parameter, 0, stored, sharding, dtype, compute)
    if next(iter(sharding.device_set)).platform == "cpu":
        return _read_stack(parameter, stored, sharding, dtype, compute)
    inner = NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[1:]))
    stack = jnp.zeros((len(parameter.pieces), *parameter.shape), dtype, out_sharding=sharding)
    for i in range(len(parameter.pieces)):
        stack = _with_layer(stack, _read(parameter, i, stored, inner, dtype, compute), i)
        stack.block_until_ready()  # else many layers wait in memory
    return stack


def _read(
    parameter: Parameter, i: int, stored: dict[str, Stored], sharding: NamedSharding, dtype, compute
) -> jax.Array:
    """The array of piece i of a parameter, see `load`."""

    def shard(index):
        shape = sharding.shard_shape(parameter.shape)
        return _copied(parameter, i, stored, index, _aligned(shape, np.dtype(dtype)), compute)

    return jax.make_array_from_callback(parameter.shape, sharding, shard, dtype=dtype)


def _read_stack(parameter: Parameter, stored: dict[str, Stored], sharding: NamedSharding, dtype, compute) -> jax.Array:
    """The array of all pieces of a parameter, see `load`: no program is compiled for it."""
    shape = (len(parameter.pieces), *parameter.shape)

    def shard(index):
        layers = range(*index[0].indices(len(parameter.pieces)))
        stack = _aligned(sharding.shard_shape(shape), np.dtype(dtype))
        copied = lambda at: _copied(parameter, layers[at], stored, index[1:], stack[at, ...], compute)
        with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
            list(readers.map(copied, range(len(layers))))
        return stack

    return jax.make_array_from_callback(shape, sharding, shard, dtype=dtype)


def _require_finite(part: np.ndarray, dtype: np.dtype, name: str) -> None:
    """UserError for a finite number in `part` that is infinite in `dtype`."""
    largest = jnp.finfo(dtype).max
    if jnp.finfo(part.dtype).max <= largest:
        return
    with np.errstate(over="ignore"):
        lost = np.isfinite(part) & ~np.isfinite(part.astype(dtype))
    if lost.any():
        raise UserError(
            f"{name} holds {float(part[lost][0]):g}, and the largest number of {dtype.name} is "
            f"{float(largest):g}; load it with another dtype of {', '.join(DTYPES)}."
        )


def _copied(parameter: Parameter, i: int, stored: dict[str, Stored], index, copy: np.ndarray, compute) -> np.ndarray:
    """`copy`, filled with the part `index` of piece i of a parameter.

    Part by part; each maps the file anew, so that little of it is in memory at once.
    """
    name, piece = parameter.pieces[i]
    narrowest = min((copy.dtype, np.dtype(compute)), key=lambda dtype: jnp.finfo(dtype).max)
    whole = stored[name].views()
    view = lambda: piece.ours(whole(), parameter.shape)[index]
    if not copy.size:
        return copy
    strides, itemsize = view().strides, view().itemsize
    slowest = int(np.argmax(strides))
    step = max(1, _AT_ONCE // max(strides[slowest], itemsize))
    for start in range(0, copy.shape[slowest], step):
        part = (slice(None),) * slowest + (slice(start, start + step),)
        _require_finite(view()[part], narrowest, name)
        copy[part] = view()[part]
    return copy


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins at a multiple of 64 bytes, which a CPU device takes without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


@functools.partial(jax.jit, donate_argnums=0)
def _with_layer(stack, layer, i):
    return jax.lax.dynamic_update_index_in_dim(stack, layer, i, 0)


@jax.jit
def _layer(stack, i):
    return jax.lax.dynamic_index_in_dim(stack, i, 0, keepdims=False)


class Tensors:
    """The tensors of a checkpoint, made from the parameter arrays one at a time.

    Attributes:
      planned: shape and dtype of every tensor, by name.
    """

    def __init__(self, located, params):
        self._parts: dict[str, list] = {}  # tensor -> [(piece, array, its layer or None)]
        self.planned: dict[str, Planned] = {}
        for parameter, array in zip(_leaves(located), jax.tree.leaves(params), strict=True):
            shapes = parameter.tensors()
            for i, (name, piece) in enumerate(parameter.pieces):
                self._parts.setdefault(name, []).append((piece, array, i if parameter.stacked else None))
                self.planned[name] = Planned(shapes[name], np.dtype(array.dtype))

    def __call__(self, name: str) -> np.ndarray:
        """The tensor, gathered from all devices and processes."""
        tensor = np.empty(self.planned[name].shape, self.planned[name].dtype)
        for piece, array, i in self._parts[name]:
            value = _gathered(array if i is None else _layer(array, i))
            piece.ours(tensor, value.shape)[...] = value
        return tensor


def _gathered(array: jax.Array) -> np.ndarray:
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _leaves(located) -> list[Parameter]:
    return jax.tree.leaves(located, is_leaf=lambda x: isinstance(x, Parameter))
