"""Stacks: arrays that a loop reads and writes one part at a time, in the memory of the devices or of their hosts.

A stack is the carry of a fori_loop, read by a slice and written in place, so that no second copy of it exists. (A scan
would read one and write another.) On the CPU backend both memories are one: the same is computed, and nothing moves.
"""
import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec as P

NAMES = ("residual", "dy", "kv", "grads", "moments", "params")      # what memory.offload may name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """Arrays [...] in one, [n, ...]; on_host: in pinned memory of the hosts."""
    array: jax.Array
    on_host: bool = dataclasses.field(default=False, metadata=dict(static=True))

    def __len__(self):
        return len(self.array)

    def read(self, i):
        """Part i, on the device."""
        part = jax.lax.dynamic_index_in_dim(self.array, i, 0, keepdims=False)
        return _row_major(jax.device_put(part, jax.memory.Space.Device)) if self.on_host else part

    def write(self, i, part):
        """The stack with `part`, in the stack's dtype, as part i."""
        part = part.astype(self.array.dtype)
        if self.on_host:
            part = jax.device_put(_row_major(part), jax.memory.Space.Host)
        return dataclasses.replace(self, array=jax.lax.dynamic_update_index_in_dim(self.array, part, i, 0))

    def add(self, i, part):
        return self.write(i, self.read(i) + part)


def zeros(count: int, like, on_host: bool = False, dtype=None):
    """For every array (or ShapeDtypeStruct) of a tree a stack of `count` such parts, cut as it is."""
    def stack(x):
        array = jnp.zeros((count, *x.shape), dtype or x.dtype, out_sharding=P(None, *x.sharding.spec))
        return _stack(array, on_host)
    return jax.tree.map(stack, like)


def stacks(tree, on_host: bool = False):
    """The arrays [n, ...] of a tree as stacks, on the hosts as far as they may_leave the device."""
    return jax.tree.map(lambda x: _stack(x, on_host and may_leave(x)), tree)


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


def _stack(array, on_host: bool) -> Stack:
    return Stack(jax.device_put(array, jax.memory.Space.Host) if on_host else array, on_host)


def _map(function, tree, *rest):
    return jax.tree.map(function, tree, *rest, is_leaf=lambda x: isinstance(x, Stack))


def _row_major(x):
    """Of one layout on both sides of the copy: where they differ, the TPU compiler copies the whole stack."""
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
