"""CallPlan: everything static about how one call of attention is sharded."""

from typing import NamedTuple

from longctx import meshes

OUTER, INNER = BOTH = meshes.CONTEXT


class CallPlan(NamedTuple):
    """Everything static about how one call is sharded.

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

    def size(self, axes: str | tuple[str, ...]) -> int:
        """The number of shards along one or both of the context axes."""
        axes, (outer, inner) = (axes,) if isinstance(axes, str) else axes, self.shards
        return (outer if OUTER in axes else 1) * (inner if INNER in axes else 1)
