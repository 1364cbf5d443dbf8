"""Strategy, the base of the context-parallel strategies: attention that calls another attention for its pieces."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax

from longctx.context_parallel.collectives import after
from longctx.context_parallel.cost import Call, Cost
from longctx.context_parallel.plan import CallPlan
from pallas_kernels.attention import api as kernels
from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats, unsupported
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.masks import TokenInfo


def in_turn(plan: CallPlan, tree, on):
    """The arrays of a call, whose collectives then come after what made the array `on`; see collectives.after."""
    return tree if plan.shards == (1, 1) else after(tree, on)


class KeyBlock(NamedTuple):
    """The keys of some tokens, as they travel: k and v [B, S, K, H], positions and segments [B, S]."""

    k: jax.Array
    v: jax.Array
    info: TokenInfo

    @classmethod
    def of(cls, x: Inputs) -> "KeyBlock":
        """The keys of a call."""
        return cls(x.k, x.v, x.k_info)

    def put(self, x: Inputs) -> Inputs:
        """The inputs with these keys in place of their own."""
        return x._replace(k=self.k, v=self.v, k_info=self.info)


class Strategy:
    """An implementation of the (out, lse) primitive over one device's shards, inside jax.shard_map.

    `why_not`, `forward` and `backward` are those of a kernel (pallas_kernels/attention/pair.py). So strategies nest:
    what a strategy calls for its pieces may be another one.

    Attributes:
      waits: what the shards wait for, for attention.strategy="auto": "" for the links alone, or a field of
        balance.Balance, the busiest shard's work over the mean; None where that is not known.
      levels: how many mesh axes of the context it cuts differently.
    """

    waits: ClassVar[str | None] = None
    levels: ClassVar[int] = 1

    @classmethod
    def make(cls, kernel: "Strategy", plan: CallPlan) -> "Strategy":
        """The strategy for one call, around the kernel."""
        raise NotImplementedError

    def why_not(self, x: Inputs, spec: AttentionSpec, platform: str | None) -> str | None:
        """The reason why a call cannot be cut this way, and what would work; None when it can.

        x: what one device holds, arrays or their types. platform: None where it is not known yet.
        """
        return unsupported(x)

    def exchange(self, x: Inputs) -> Inputs:
        """The arrays that forward and backward work on. They are kept, or exchanged again, as the remat policy says."""
        return x

    def forward(self, x: Inputs, spec: AttentionSpec, initial: Pair | None = None) -> Pair:
        """The pair of the queries that this device holds; x as `exchange` gave it.

        initial: the partial pair of these queries over other keys, as forward returned it, to go on from.
        """
        raise NotImplementedError

    def backward(self, x: Inputs, spec: AttentionSpec, stats: RowStats) -> Grads:
        """Gradients of what this device holds; dbias is that of its own queries and keys only."""
        raise NotImplementedError

    def cost(self, call: Call) -> Cost:
        """What one call sends, in closed form. Where documents may end hops sooner, what it sends if none does."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Local(Strategy):
    """No cut: the kernel itself, by its name. The innermost of every strategy."""

    kernel: str

    @classmethod
    def make(cls, kernel, plan):
        return kernel

    def forward(self, x, spec, initial=None):
        assert initial is None or spec.partial
        return kernels.select(self.kernel, x, spec).forward(x, spec, initial)

    def backward(self, x, spec, stats):
        return kernels.select(self.kernel, x, spec).backward(x, spec, stats)

    def cost(self, call):
        return Cost()
