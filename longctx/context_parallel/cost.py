"""Costs: the bytes that one call of attention sends, in closed form, with nothing compiled and no array made.

Strategy.cost gives the Cost of a Call, what its `exchange`, `forward` and `backward` send; costs nest where strategies
do. Loads are what leaves a device by ring algorithms; of a permutation in which only some devices send (LightSeq's),
what leaves one of those.
"""

import collections
import dataclasses
from collections.abc import Iterable

from longctx.context_parallel.plan import CallPlan
from pallas_kernels import masks

WIDTHS = {"bfloat16": 2, "float32": 4}
PERMUTE, TO_ALL, GATHER, SCATTER = "collective-permute", "all-to-all", "all-gather", "reduce-scatter"
RAGGED = "ragged-all-to-all"


@dataclasses.dataclass(frozen=True)
class Load:
    """Numbers that leave a device, and their bytes."""

    elements: float
    bytes: float

    def __add__(self, other: "Load") -> "Load":
        return Load(self.elements + other.elements, self.bytes + other.bytes)

    def __rmul__(self, times: float) -> "Load":
        return Load(times * self.elements, times * self.bytes)


@dataclasses.dataclass(frozen=True)
class Sent:
    """Collectives of one kind over some axes of the mesh.

    Attributes:
      kind: as compiled programs name it.
      axes: those of more than one device.
      load: in all.
      steps: collectives that have to wait for one another.
      hops: the links of a ring that their data takes, one after another: of a permutation the distance, the shorter way
        round, else all links but one.
      ways: directions round a ring in which parts of the load go at once.
    """

    kind: str
    axes: tuple[str, ...]
    load: Load
    steps: float
    hops: float
    ways: int = 1

    def __rmul__(self, times: float) -> "Sent":
        return dataclasses.replace(self, load=times * self.load, steps=times * self.steps, hops=times * self.hops)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The collectives of Strategy's methods. The exchange is repeated where a remat policy does not keep its arrays."""

    exchange: tuple[Sent, ...] = ()
    forward: tuple[Sent, ...] = ()
    backward: tuple[Sent, ...] = ()

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(merged(a + b) for a, b in zip(_parts(self), _parts(other), strict=True)))

    def __rmul__(self, times: float) -> "Cost":
        return Cost(*(tuple(times * sent for sent in part) for part in _parts(self)))


@dataclasses.dataclass(frozen=True)
class Call:
    """The part of one call of attention that a device holds.

    Attributes:
      plan: how the call is sharded, with the heads of one group.
      mask: its mask, but for segments.
      rows, tokens: rows, and tokens of each.
      head_dim, dtype: of queries, keys and values.
      partial: one of several parts of the pairs, whose results are float32.
    """

    plan: CallPlan
    mask: masks.Mask
    rows: int
    tokens: int
    head_dim: int
    dtype: str
    partial: bool = False

    def array(self, heads: int, dtype: str) -> Load:
        """The load of an array BTNH of that many heads."""
        return self.numbers(heads * self.head_dim, dtype)

    def numbers(self, each: int, dtype: str = "float32") -> Load:
        """The load of that many numbers for each token."""
        count = self.rows * self.tokens * each
        return Load(count, count * WIDTHS[dtype])

    @property
    def info(self) -> Load:
        """The load of each token's position and segment, int32."""
        return self.numbers(2)

    @property
    def block(self) -> Load:
        """The load of keys and values, with their positions and segments."""
        return 2 * self.array(self.plan.kv_heads, self.dtype) + self.info

    @property
    def block_grads(self) -> Load:
        """The load of dK and dV, as they travel."""
        return 2 * self.array(self.plan.kv_heads, self.plan.kv_grads_dtype)

    @property
    def result_dtype(self) -> str:
        """The dtype of out and of gradients."""
        return "float32" if self.partial else self.dtype

    def sent(
        self,
        kind: str,
        axes: str | tuple[str, ...],
        load: Load,
        steps: int = 1,
        links: int | None = None,
        ways: int = 1,
    ) -> tuple[Sent, ...]:
        """(Sent,), or () where nothing is sent; links: by default all but one for each step."""
        axes = (axes,) if isinstance(axes, str) else axes
        links = steps * (self.plan.size(axes) - 1) if links is None else links
        axes = tuple(axis for axis in axes if self.plan.size(axis) > 1)
        return (Sent(kind, axes, load, steps, links, ways),) if load.elements else ()


def merged(sents: Iterable[Sent]) -> tuple[Sent, ...]:
    """One Sent for each kind and axes, of collectives that follow one another."""
    groups = collections.defaultdict(list)
    for sent in sents:
        groups[sent.kind, sent.axes].append(sent)
    total = lambda group, field: sum(getattr(sent, field) for sent in group)
    return tuple(
        Sent(
            *key,
            sum((sent.load for sent in group), Load(0, 0)),
            total(group, "steps"),
            total(group, "hops"),
            min(sent.ways for sent in group),
        )
        for key, group in groups.items()
    )


def _parts(cost):
    return cost.exchange, cost.forward, cost.backward
