"""What a context-parallel strategy is: attention that cuts its arrays and calls another attention for the pieces."""

import dataclasses
from typing import NamedTuple

from longctx.context_parallel.collectives import after
from pallas_kernels import masks
from pallas_kernels.attention import api as kernels


class Plan(NamedTuple):
    """Everything static about how one call is cut.

    Attributes:
      strategy: a name in api.STRATEGIES. kernel: one in pallas_kernels.attention.api.IMPLEMENTATIONS, or auto.
      shards: sizes of the mesh axes (context_outer, context).
      heads, kv_heads: of one tensor shard; of one group of them, where groups of heads attend one after another.
      layout: how the sequence lies on the shards (longctx/layouts); None is unknown.
      documents: whether rows are packed documents.
      kv_grads_dtype: in which dK and dV travel between devices.
    """

    strategy: str
    kernel: str
    shards: tuple[int, int]
    heads: int
    kv_heads: int
    layout: str | None = None
    documents: bool = False
    kv_grads_dtype: str = "float32"


def in_turn(plan: Plan, tree, on):
    """The arrays of a call of attention that comes `after` what made the array `on`."""
    return tree if plan.shards == (1, 1) else after(tree, on)


class Strategy:
    """An implementation of the (out, lse) primitive over one device's shards, inside jax.shard_map.

    `forward` and `backward` are those of a kernel (pallas_kernels/attention/reference.py), with tokens = (of the
    queries here, of the keys here) and the table of a bias, one row for each query head here, or None. So strategies
    nest: what a strategy calls for its pieces may be another one.
    """

    def why_not(self, plan: Plan, mask: masks.Mask) -> str | None:
        """The reason why a call cannot be cut this way, and what would work; None when it can."""
        return None

    def exchange(self, q, k, v, tokens, table):
        """The arrays that forward and backward work on. They are kept, or exchanged again, as the remat policy says."""
        return q, k, v, tokens, table

    def forward(self, q, k, v, tokens, spec, table, before=None):
        """(out, lse) of the queries that this device holds; q, k, v, tokens and table as `exchange` gave them.

        before: partial (out, lse) of the same queries over other keys, as forward returned it, to go on from.
        """
        raise NotImplementedError

    def backward(self, q, k, v, tokens, spec, rows, table):
        """(dq, dk, dv, dtable) of what this device holds: dtable of its own queries and keys only."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Local(Strategy):
    """No cut: the kernel itself. The innermost of every strategy."""

    kernel: str

    def forward(self, q, k, v, tokens, spec, table, before=None):
        assert before is None or spec.partial
        return kernels.select(self.kernel, q, k, spec).forward(q, k, v, tokens, spec, table, before)

    def backward(self, q, k, v, tokens, spec, rows, table):
        return kernels.select(self.kernel, q, k, spec).backward(q, k, v, tokens, spec, rows, table)
