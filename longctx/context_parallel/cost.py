"""What each strategy sends, in closed form: of one call of attention, with nothing compiled and no array made.

A strategy's cost has the parts of its class: what `exchange`, `forward` and `backward` send. As the classes do, the
functions nest. Loads are what leaves a device by ring algorithms; of a permutation in which only some devices send
(LightSeq's), what leaves one of those.
"""

import collections
import dataclasses
from collections.abc import Iterable

from longctx import meshes
from longctx.context_parallel import dispatch, hops
from longctx.context_parallel.strategy import Plan
from pallas_kernels import masks

WIDTHS = {"bfloat16": 2, "float32": 4}
OUTER, INNER = BOTH = meshes.CONTEXT
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
      hops: the same counted in links of a ring: of a permutation the distance, the shorter way round, else all links
        but one.
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
    """What each of Strategy's methods sends. The exchange is repeated where a remat policy does not keep its arrays."""

    exchange: tuple[Sent, ...] = ()
    forward: tuple[Sent, ...] = ()
    backward: tuple[Sent, ...] = ()

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(merged(a + b) for a, b in zip(_parts(self), _parts(other), strict=True)))

    def __rmul__(self, times: float) -> "Cost":
        return Cost(*(tuple(times * one for one in part) for part in _parts(self)))


@dataclasses.dataclass(frozen=True)
class Call:
    """What each device holds of one call of `attend`.

    Attributes:
      plan: how it is cut, with the heads of one group.
      mask: but for segments.
      rows, tokens: rows, and tokens of each.
      head_dim, dtype: of queries, keys and values.
      partial: one of several parts of the pairs, whose results are float32.
    """

    plan: Plan
    mask: masks.Mask
    rows: int
    tokens: int
    head_dim: int
    dtype: str
    partial: bool = False

    def array(self, heads: int, dtype: str) -> Load:
        """An array BTNH of so many heads."""
        return self.numbers(heads * self.head_dim, dtype)

    def numbers(self, each: int, dtype: str = "float32") -> Load:
        """So many for each token."""
        count = self.rows * self.tokens * each
        return Load(count, count * WIDTHS[dtype])

    @property
    def where(self) -> Load:
        """Position and segment of each token, int32."""
        return self.numbers(2)

    @property
    def block(self) -> Load:
        """Keys and values, and where they are."""
        return 2 * self.array(self.plan.kv_heads, self.dtype) + self.where

    @property
    def block_grads(self) -> Load:
        """dK and dV, as they travel."""
        return 2 * self.array(self.plan.kv_heads, self.plan.kv_grads_dtype)

    @property
    def result_dtype(self) -> str:
        return "float32" if self.partial else self.dtype

    def size(self, axes: tuple[str, ...]) -> int:
        """Shards along some of the context axes."""
        outer, inner = self.plan.shards
        return (outer if OUTER in axes else 1) * (inner if INNER in axes else 1)

    def sent(
        self, kind: str, axes: tuple[str, ...], load: Load, steps: int = 1, links: int | None = None, ways: int = 1
    ) -> tuple[Sent, ...]:
        """(Sent,), or () where nothing is; links: all but one for each step."""
        links = steps * (self.size(axes) - 1) if links is None else links
        axes = tuple(axis for axis in axes if self.size((axis,)) > 1)
        return (Sent(kind, axes, load, steps, links, ways),) if load.elements else ()


def cost(call: Call) -> Cost:
    """Of one call, by the strategy of its plan. Where documents may end hops sooner, what it takes if none does."""
    return COSTS[call.plan.strategy](call)


def merged(sents: Iterable[Sent]) -> tuple[Sent, ...]:
    """One for each kind and axes, of collectives that follow one another."""
    groups = collections.defaultdict(list)
    for one in sents:
        groups[one.kind, one.axes].append(one)
    total = lambda found, of: sum(getattr(one, of) for one in found)
    return tuple(
        Sent(
            *key,
            sum((one.load for one in found), Load(0, 0)),
            total(found, "steps"),
            total(found, "hops"),
            min(one.ways for one in found),
        )
        for key, found in groups.items()
    )


def _parts(cost):
    return cost.exchange, cost.forward, cost.backward


def _all_gather(call: Call) -> Cost:
    others = call.size(BOTH) - 1
    return Cost(
        exchange=call.sent(GATHER, BOTH, others * call.block),
        backward=call.sent(SCATTER, BOTH, others * call.block_grads),
    )


def _ring(call: Call, axes: tuple[str, ...] = BOTH, both_ways: bool = False) -> Cost:
    """Keys as far as some query sees them; back from there, in one leap out, and home with their gradients."""
    shards, layout = call.size(axes), call.plan.layout
    far = hops.farthest(call.mask, layout, call.tokens, shards, both_ways)
    on_device = call.plan.documents and hops.documents_matter(layout, both_ways) and far[hops.AHEAD]
    there, out = list(far.values()), [min(distance, shards - distance) for distance in far.values()]
    links = max(a + b for a, b in zip(there, out, strict=True))
    blocks, sums, steps = sum(there), sum(there), max(there) + 1
    if on_device:  # out hop by hop, and the first and the last hop home are as all others
        blocks, sums, steps, links = sum(there) + sum(out), sum(there) + len(there), links + 1, links + 1
    ways = len(far) if both_ways else 1
    return Cost(
        forward=call.sent(PERMUTE, axes, sum(there) * call.block, max(there), max(there), ways),
        backward=call.sent(PERMUTE, axes, blocks * call.block + sums * call.block_grads, steps, links, ways),
    )


def _double_ring(call: Call) -> Cost:
    return _ring_of_level(call, (OUTER,)) + call.size((OUTER,)) * _ring_of_level(call, (INNER,))


def _ring_of_level(call: Call, axes: tuple[str, ...]) -> Cost:
    """One of two levels is told nothing of how the sequence lies."""
    return _ring(dataclasses.replace(call, plan=call.plan._replace(layout=None, documents=False)), axes)


def _token_ring(call: Call) -> Cost:
    """Queries go round as far as their mask reaches, each partial result leaps home."""
    shards, heads = call.size(BOTH), call.plan.heads
    visits = hops.distances(call.mask, call.plan.layout, call.tokens, shards, hops.BACK)
    far, queries, numbers = max(visits, default=0), call.array(heads, call.dtype), call.numbers(heads)
    there, back = queries + call.where, call.array(heads, "float32")
    sent = lambda load: call.sent(PERMUTE, BOTH, len(visits) * load, len(visits) + 1, far + min(far, shards - far))
    return Cost(forward=sent(there + back + numbers), backward=sent(there + queries + 2 * numbers + back))


def _ulysses(call: Call, axes: tuple[str, ...] = BOTH, inside=lambda call: Cost()) -> Cost:
    plan, shards = call.plan, call.size(axes)
    keys = _dealt(plan.heads, plan.kv_heads, shards)
    # copies of a key head are summed in float32
    kv_grads_dtype = call.result_dtype if keys == plan.kv_heads else "float32"
    queries, results = (call.array(plan.heads, dtype) for dtype in (call.dtype, call.result_dtype))
    rows = call.numbers(plan.heads)
    to_all = lambda load, steps=1: call.sent(TO_ALL, axes, (shards - 1) / shards * load, steps)
    each = dataclasses.replace(
        call, tokens=call.tokens * shards, plan=plan._replace(heads=plan.heads // shards, kv_heads=keys // shards)
    )
    return inside(each) + Cost(
        exchange=(
            *to_all(queries + 2 * call.array(keys, call.dtype)),
            *call.sent(GATHER, axes, (shards - 1) * call.where),
        ),
        forward=to_all(results + rows),
        backward=to_all(queries + 2 * rows + results + 2 * call.array(keys, kv_grads_dtype), 2),
    )


def _dealt(heads: int, kv_heads: int, shards: int) -> int:
    """Key heads and copies of them that Ulysses deals out."""
    if kv_heads % shards == 0:
        return kv_heads
    return shards if heads // kv_heads % (heads // shards) == 0 else heads


def _lightseq(call: Call) -> Cost:
    """Steps 1 to C/2; in each, keys move on, and queries to those that have no keys left. All from their owners."""
    shards, heads = call.size(BOTH), call.plan.heads
    needed = hops.distances(call.mask, call.plan.layout, call.tokens, shards)
    moves = [t for t in range(1, shards // 2 + 1) if t in needed]
    helps = [t for t in range(1, shards // 2 + 1) if shards - t in needed and t < shards - t]
    queries, numbers = call.array(heads, call.dtype), call.numbers(heads)
    lent, back = queries + call.where, call.array(heads, "float32")
    forward = len(moves) * call.block + len(helps) * (lent + back + numbers)
    backward = len(moves) * (call.block + call.block_grads) + len(helps) * (lent + queries + 2 * numbers + back)
    there, and_back = max(moves + helps, default=0), 2 * max(helps, default=0)
    return Cost(
        forward=call.sent(PERMUTE, BOTH, forward, 2 if helps else 1, max(there, and_back)),
        backward=call.sent(PERMUTE, BOTH, backward, 2, 2 * there),
    )


def _dispatch(call: Call) -> Cost:
    """All blocks of every shard that some query may see: the most that a batch can ask for, ROOM shards in a round."""
    seen = len(hops.distances(call.mask, call.plan.layout, call.tokens, call.size(BOTH)))
    rounds = -(-seen // dispatch.ROOM)
    return Cost(
        forward=call.sent(RAGGED, BOTH, seen * call.block, rounds),
        backward=call.sent(RAGGED, BOTH, seen * (call.block + call.block_grads), rounds + 1),
    )


def _rsa(call: Call) -> Cost:
    """Whole rounds, of C hops: keys for the scores, then values; back keys, values, keys, and dense sums of dK, dV."""
    shards, plan = call.size(BOTH), call.plan
    each, keys = call.array(plan.kv_heads, call.dtype), call.array(plan.kv_heads, call.dtype) + call.where
    rounds = lambda load, count: call.sent(PERMUTE, BOTH, shards * load, count * shards, count * shards)
    sums = 2 * (shards - 1) * call.array(plan.heads, "float32")
    # back, keys for the scores and values for dP go round at the same time
    return Cost(forward=rounds(keys + each, 2), backward=(*rounds(keys + 2 * each, 2), *call.sent(SCATTER, BOTH, sums)))


COSTS = {
    "local": lambda call: Cost(),
    "all_gather": _all_gather,
    "ring": _ring,
    "bidirectional_ring": lambda call: _ring(call, both_ways=True),
    "double_ring": _double_ring,
    "token_ring": _token_ring,
    "ulysses": _ulysses,
    "usp": lambda call: _ulysses(call, (INNER,), lambda each: _ring_of_level(each, (OUTER,))),
    "lightseq": _lightseq,
    "dispatch": _dispatch,
    "rsa": _rsa,
}
