"""Orders in which the rows of a stage are fed by the length of their documents, by name: stages[i].order. Free of jax.

The bucket of a row is the power of two of its longest document: 2^k to 2^(k+1) - 1 tokens. But for "shuffled" each step
takes rows of one bucket. "grow_p2(8)" goes eight times through the lengths in the steps of a stage, short ones likelier
first (Dataset Decomposition, arXiv 2405.13226); its buckets are those of data.packing="decomposition", and other
packings have theirs. Each bucket gets steps by its rows. Within it every row is read once before any is read again, so
that over the stage rows are read equally often, up to the steps that no bucket fills to the last row.
What a step feeds is a function of (seed, stage, step) and the rows alone. To add an order: a function of the powers of
two that gives odds, or one that gives the bucket of every step as in_turn does, and a line in ORDERS.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from longctx.data import passes
from longctx.errors import UserError
from longctx.parsing import parse_call

if TYPE_CHECKING:
    from longctx.data.curriculum import Stage
    from longctx.data.mixture import Rows

SHUFFLED = "shuffled"
Odds = Callable[[np.ndarray], np.ndarray]  # i64[buckets], ascending powers of two -> f64[buckets]
# (powers, rows of each bucket, steps, cycles, numbers for what is drawn) -> i64[steps]: the bucket of each step
Order = Callable[[np.ndarray, np.ndarray, int, int, np.random.Generator], np.ndarray]


def uniform(powers: np.ndarray) -> np.ndarray:
    """Equal odds of all lengths."""
    return np.ones(len(powers))


def grow_linear(powers: np.ndarray) -> np.ndarray:
    """Odds 1 for the longest, one more for each half of its length."""
    return powers.max() - powers + 1.0


def grow_p2(powers: np.ndarray) -> np.ndarray:
    """Odds twice as high for half the length."""
    return 2.0 ** (powers.max() - powers)


def grow_p100(powers: np.ndarray) -> np.ndarray:
    """Odds a hundred times as high for half the length: nearly one bucket after another."""
    return 100.0 ** (powers.max() - powers)


def shrink_p100(powers: np.ndarray) -> np.ndarray:
    """Odds a hundred times as high for twice the length."""
    return 100.0 ** (powers - powers.min())


def allotted(steps: float, sizes: np.ndarray) -> np.ndarray:
    """i64[buckets]: whole steps of each, of the whole number above `steps` in all, in proportion to the sizes.

    Each is rounded and the last takes the rest, as in the published code; where that would be below 0, the largest give
    what is missing.
    """
    counts = np.rint(steps * sizes / sizes.sum()).astype(np.int64)
    counts[-1] = np.ceil(steps) - counts[:-1].sum()
    while counts[-1] < 0:
        counts[counts.argmax()] -= 1
        counts[-1] += 1
    return counts


def drawn(odds: Odds) -> Order:
    """The order in which each step's bucket is drawn, by odds times the steps of the bucket in the cycle; one that has
    had all of them is out until the next cycle."""

    @functools.wraps(odds)
    def order(powers, sizes, steps, cycles, rng):
        parts = allotted(steps, sizes)[:, None] * np.arange(cycles + 1) // cycles
        found = []
        for left in np.diff(parts, axis=1).T:
            weights, left = odds(powers) * left, left.copy()
            for place in rng.random(left.sum()):
                ends = np.cumsum(np.where(left > 0, weights, 0))
                bucket = int(np.searchsorted(ends, place * ends[-1], side="right"))
                found.append(bucket)
                left[bucket] -= 1
        return np.array(found, np.int64)

    return order


def in_turn(powers, sizes, steps, cycles, rng):
    """The order of GrowLength: from the shortest to the longest, equally many steps of each, whatever its rows are."""
    ends = steps * np.arange(cycles + 1) // cycles
    return np.concatenate([np.arange(n) * len(powers) // n for n in np.diff(ends).tolist()])


ORDERS: dict[str, Order] = {
    "uniform": drawn(uniform),
    "grow_linear": drawn(grow_linear),
    "grow_p2": drawn(grow_p2),
    "grow_p100": drawn(grow_p100),
    "shrink_p100": drawn(shrink_p100),
    "grow_length": in_turn,
}


def parse(text: str, field: str = "order") -> tuple[Order, int] | None:
    """(the order, its cycles) that a setting names, None for "shuffled". Raises UserError for what is none."""
    known = {SHUFFLED: lambda: None} | {name: functools.partial(_made, name) for name in ORDERS}
    made, numbers = parse_call(field, text, known)
    return made(*numbers)


def _made(name: str, cycles: int = 1) -> tuple[Order, int]:
    return ORDERS[name], cycles


def check(stages: "Sequence[Stage]") -> None:
    """Raises UserError for an order that is none, or that has more cycles than its stage has steps."""
    for stage in stages:
        field = f"stages[{stage.index}].order"
        found = parse(stage.order, field)
        if found and found[1] > stage.steps:
            raise UserError(
                f"{field}={stage.order!r} has more cycles than stages[{stage.index}] has steps ({stage.steps}); as "
                "many or fewer work."
            )


@dataclasses.dataclass(frozen=True)
class Ordered:
    """What each step of a stage is fed.

    members: the numbers of the rows of each bucket; powers i64[buckets]: the power of two of each. buckets i64[steps]:
    the bucket of each step; nth i64[steps]: how many steps had that bucket before. batch: rows of a step.
    """

    members: Sequence[np.ndarray]
    powers: np.ndarray
    buckets: np.ndarray
    nth: np.ndarray
    batch: int
    seed: tuple[int, ...]

    @property
    def tokens(self) -> np.ndarray:
        """i64[steps]: the tokens from which on documents are of the bucket of each step."""
        return 2 ** self.powers[self.buckets]

    def rows(self, step: int) -> np.ndarray:
        """i64[batch]: the numbers of the rows of a step; after the last step of the stage the order begins anew."""
        again, step = divmod(int(step), len(self.buckets))
        bucket = int(self.buckets[step])
        nth = int(self.nth[step]) + again * int((self.buckets == bucket).sum() if again else 0)
        members = self.members[bucket]
        places = nth * self.batch + np.arange(self.batch)
        return members[passes.taken(places, len(members), (*self.seed, bucket))]


def ordered(rows: "Rows", stage: "Stage", seed: tuple[int, ...]) -> Ordered | None:
    """What each step of a stage is fed, None where all rows are shuffled. seed: what a numpy SeedSequence takes."""
    found = parse(stage.order)
    if found is None:
        return None
    order, cycles = found
    longest = rows.longest(np.arange(len(rows)))
    powers, bucket, sizes = np.unique(np.frexp(longest)[1] - 1, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    buckets = order(powers.astype(np.int64), sizes, stage.steps, cycles, rng)
    by_bucket = np.argsort(bucket, kind="stable")
    members = np.split(by_bucket, np.cumsum(sizes)[:-1])
    nth = np.empty(len(buckets), np.int64)
    for number in range(len(powers)):
        at = np.flatnonzero(buckets == number)
        nth[at] = np.arange(len(at))
    return Ordered(members, powers, buckets, nth, stage.batch_size, seed)
