"""Stacks: arrays that a loop reads and writes one part at a time, in the memory of the devices or of their hosts.

A stack is the carry of a fori_loop, read by a slice and written in place, so that no second copy of it exists. (A scan
would read one and write another.) Autodiff of a scan that reads stacks as Weights gives stacks of gradients.
On the CPU backend both memories are one: the same is computed, and nothing moves.
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
    """Arrays [...] in one, [n, ...], on the device or in pinned memory of its host."""

    array: jax.Array

    def __len__(self):
        return len(self.array)

    def read(self, i):
        """Part i, on the device."""
        return _on_device(jax.lax.dynamic_index_in_dim(self.array, i, 0, keepdims=False))

    def write(self, i, part):
        """The stack with `part`, in the stack's dtype, as part i."""
        part = _moved(part.astype(self.array.dtype), _on_host(self.array))
        return Stack(jax.lax.dynamic_update_index_in_dim(self.array, part, i, 0))

    def add(self, i, part):
        return self.write(i, self.read(i) + part)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Section:
    """A tree of stacks, of which the parts from `first` on are read and written here as 0, 1 and so on."""

    stacks: object
    first: int | jax.Array

    def read(self, i):
        return read(self.stacks, self.first + i)

    def write(self, i, parts):
        return dataclasses.replace(self, stacks=write(self.stacks, self.first + i, parts))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight to differentiate by `place`: zeros of its shape in the memory that the gradient is for."""

    array: jax.Array
    place: jax.Array


def fetched(tree):
    """A tree with its Weights on the device, as arrays."""
    is_weight = lambda x: isinstance(x, Weight)
    return jax.tree.map(lambda x: _fetched(x.array, x.place) if is_weight(x) else x, tree, is_leaf=is_weight)


@jax.custom_jvp
def _fetched(array, place):
    """array + place: differentiable by the second alone, so that its gradient goes where that is."""
    return _on_device(array)


@_fetched.defjvp
def _of_place(primals, tangents):
    return _fetched(*primals), _on_device(tangents[1])


def zeros(count: int, like, on_host: bool = False, dtype=None):
    """For every array (or ShapeDtypeStruct) of a tree a stack of `count` such parts, cut as it is."""
    zero = lambda x: jnp.zeros(x.shape, dtype or x.dtype, out_sharding=x.sharding)
    return made(count, lambda i: jax.tree.map(zero, like), on_host)


def made(count: int, parts, on_host: bool = False):
    """The stacks of the trees parts(0), parts(1) and so on. Those on the host have never been whole on the device."""
    each = lambda i: jax.tree.map(lambda part: _moved(part, on_host), parts(i))
    arrays = jax.lax.scan(lambda _, i: (None, each(i)), None, jnp.arange(count))[1]
    return jax.tree.map(Stack, arrays)


def stacks(tree, on_host: bool = False):
    """The arrays [n, ...] of a tree as stacks, on the hosts as far as they may_leave the device."""
    there = lambda x: jax.device_put(x, jax.memory.Space.Host) if on_host and may_leave(x) else x
    return jax.tree.map(lambda x: Stack(there(x)), tree)


def zeros_like(tree, on_host: bool = False):
    """Zeros for every stack of a tree, on the hosts as far as they may_leave the device."""
    there = lambda stack: on_host and may_leave(stack.array)
    return _map(lambda stack: zeros(len(stack), jax.eval_shape(stack.read, 0), there(stack)), tree)


def may_leave(x) -> bool:
    """Whether a stack of weights, or of their moments, can be on the host: the TPU compiler cannot slice [n, size]
    there."""
    return x.ndim > 2


def count(tree) -> int:
    """How many parts the stacks of a tree have."""
    return len(jax.tree.leaves(tree)[0])


def arrays(tree):
    """The arrays of a tree of stacks, where they are."""
    return _map(lambda stack: stack.array, tree)


def read(tree, i):
    """Part i of every stack of a tree."""
    return _map(lambda stack: stack.read(i), tree)


def write(tree, i, parts):
    """A tree of stacks with `parts` as part i of each."""
    return _map(lambda stack, part: stack.write(i, part), tree, parts)


def finite(x):
    """Whether every number of an array is finite; of one on the hosts, a part at a time on the device."""
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
    """Of one layout on both sides of the copy: where they differ, the TPU compiler copies the whole stack."""

    def constrained(x):
        return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))

    mesh, spec = jax.sharding.get_abstract_mesh(), jax.typeof(x).sharding.spec
    if mesh.empty or mesh.manual_axes:
        return constrained(x)
    return jax.shard_map(constrained, in_specs=spec, out_specs=spec)(x)  # or XLA has every device do the whole of it
