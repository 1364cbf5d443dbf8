"""Stacks: arrays that a loop reads and writes one part at a time, in device memory or in host memory.

A stack is the carry of a fori_loop, read by a slice and written in place, so that no second copy of it exists. (A scan
would read one and write another.) Autodiff of a scan that reads stacks as Weights gives stacks of gradients.
The CPU backend has one memory for both: it computes as the others do, and nothing moves.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

OF_WEIGHTS = ("grads", "moments", "params")
NAMES = ("residual", "dy", "kv", "attention", *OF_WEIGHTS)  # what memory.offload may name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """n arrays [...] stored as one, [n, ...], in device memory or in the pinned memory of the device's host."""

    array: jax.Array

    def __len__(self):
        return len(self.array)

    def read(self, i):
        """Part i of the stack, on the device."""
        return _on_device(jax.lax.dynamic_index_in_dim(self.array, i, 0, keepdims=False))

    def write(self, i, part):
        """The stack with `part`, cast to the stack's dtype, as part i."""
        part = _moved(part.astype(self.array.dtype), _on_host(self.array))
        return Stack(jax.lax.dynamic_update_index_in_dim(self.array, part, i, 0))

    def add(self, i, part):
        """The stack with `part` added to part i."""
        return self.write(i, self.read(i) + part)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Section:
    """A view of a tree of stacks whose part i is their part first + i."""

    stacks: object
    first: int | jax.Array

    def read(self, i):
        """Part i of every stack of the section."""
        return read(self.stacks, self.first + i)

    def write(self, i, parts):
        """The section with `parts` as part i of its stacks."""
        return dataclasses.replace(self, stacks=write(self.stacks, self.first + i, parts))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight whose gradient is taken with respect to `place`: zeros of its shape, in the gradient's memory."""

    array: jax.Array
    place: jax.Array


def fetched(tree):
    """A tree with each Weight replaced by its array, on the device."""
    is_weight = lambda x: isinstance(x, Weight)
    return jax.tree.map(lambda x: _fetched(x.array, x.place) if is_weight(x) else x, tree, is_leaf=is_weight)


@jax.custom_jvp
def _fetched(array, place):
    """array + place, where place is 0: differentiable in `place` alone, so that the gradient gets its memory."""
    return _on_device(array)


@_fetched.defjvp
def _of_place(primals, tangents):
    return _fetched(*primals), _on_device(tangents[1])


def zeros(count: int, like, on_host: bool = False, dtype=None):
    """A stack of `count` zero parts for every array (or ShapeDtypeStruct) of a tree, each part sharded as the array."""
    zero = lambda x: jnp.zeros(x.shape, dtype or x.dtype, out_sharding=x.sharding)
    return made(count, lambda i: jax.tree.map(zero, like), on_host)


def made(count: int, parts, on_host: bool = False):
    """The stacks of the trees parts(0), ..., parts(count - 1); stacks on the host were never whole on the device."""
    each = lambda i: jax.tree.map(lambda part: _moved(part, on_host), parts(i))
    arrays = jax.lax.scan(lambda _, i: (None, each(i)), None, jnp.arange(count))[1]
    return jax.tree.map(Stack, arrays)


def stacks(tree, on_host: bool = False):
    """The arrays [n, ...] of a tree as stacks; with on_host, those that `may_leave` the device are in host memory."""
    placed = lambda x: jax.device_put(x, jax.memory.Space.Host) if on_host and may_leave(x) else x
    return jax.tree.map(lambda x: Stack(placed(x)), tree)


def zeros_like(tree, on_host: bool = False):
    """Zeros for every stack of a tree; with on_host, those that `may_leave` the device are in host memory."""
    leaves = lambda stack: on_host and may_leave(stack.array)
    return _map(lambda stack: zeros(len(stack), jax.eval_shape(stack.read, 0), leaves(stack)), tree)


def may_leave(x) -> bool:
    """Whether a stack of weights or moments can be in host memory, where the TPU compiler cannot slice [n, size]."""
    return x.ndim > 2


def count(tree) -> int:
    """The number of parts in each stack of a tree."""
    return len(jax.tree.leaves(tree)[0])


def arrays(tree):
    """The arrays [n, ...] of a tree of stacks, not moved."""
    return _map(lambda stack: stack.array, tree)


def read(tree, i):
    """Part i of every stack of a tree."""
    return _map(lambda stack: stack.read(i), tree)


def write(tree, i, parts):
    """A tree of stacks with `parts` as part i of each."""
    return _map(lambda stack, part: stack.write(i, part), tree, parts)


def finite(x):
    """Whether every number of an array is finite. An array in host memory is read part by part."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.bool_(True)
    if not _on_host(x):
        return jnp.isfinite(x).all()
    stack = Stack(x)
    return jax.lax.fori_loop(0, len(stack), lambda i, good: good & jnp.isfinite(stack.read(i)).all(), jnp.bool_(True))


def _map(function, tree, *rest):
    return jax.tree.map(function, tree, *rest, is_leaf=lambda x: isinstance(x, Stack))


def _moved(part, to_host: bool):
    return jax.device_put(_row_major(part), jax.memory.Space.Host) if to_host else part


def _on_device(part):
    return _row_major(jax.device_put(part, jax.memory.Space.Device)) if _on_host(part) else part


def _on_host(x) -> bool:
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def _row_major(x):
    """The array in row-major layout: where host and device layouts differ, the TPU compiler copies the whole stack."""

    def constrained(x):
        return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))

    mesh, spec = jax.sharding.get_abstract_mesh(), jax.typeof(x).sharding.spec
    if mesh.empty or mesh.manual_axes:
        return constrained(x)
    return jax.shard_map(constrained, in_specs=spec, out_specs=spec)(x)  # or XLA has every device do the whole of it
