"""FlexSP (arXiv 2412.01523): groups of ranks by an integer program over buckets of lengths."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from longctx.placing import batches, flexsp_greedy
from longctx.placing.cost import Cost
from longctx.placing.placement import Placement

BUCKETS = 16
GAP = 0.01  # to the bound at which HiGHS stops
SECONDS = 5.0  # for one step
NODES = 500  # of its search: where it ends by these, and not by SECONDS, plans do not depend on the machine's speed


def plan(lengths: np.ndarray, ranks: int, cost: Cost) -> Placement:
    """Groups of powers of two as HiGHS finds them, from the groups of flexsp_greedy on: those are kept where they are
    within batches.CLOSE of what any groups take at least, or where HiGHS finds nothing faster in time.

    Lengths are rounded up to boundaries of buckets, by which a batch that fits can seem not to: then with finer
    buckets, at last one for each length, then with more steps. Memory is that of the rounded lengths while solving, so
    at most that of the true ones after.
    """
    return batches.plan(lengths, ranks, cost, solve)


def solve(lengths: np.ndarray, ranks: int, cost: Cost) -> batches.Groups | None:
    """[(ranks, documents)] of one step; None where the documents do not fit."""
    first = flexsp_greedy.solve(lengths, ranks, cost)
    slowest = np.inf if first is None else batches.slowest(first, lengths, cost)
    if slowest <= batches.CLOSE * batches.least(lengths, ranks, cost):
        return first
    found = program(lengths, ranks, cost)
    return found if found is not None and batches.slowest(found, lengths, cost) < slowest else first


def program(lengths: np.ndarray, ranks: int, cost: Cost) -> batches.Groups | None:
    """The groups of one step by the integer program alone; None where HiGHS finds none."""
    count, distinct = BUCKETS, len(np.unique(lengths))
    while True:
        boundary, bucket = buckets(lengths, count)
        if _is_close(boundary[bucket], lengths, ranks, cost) or count >= distinct:
            found = _program(boundary, np.bincount(bucket, minlength=len(boundary)), ranks, cost)
            if found is not None or count >= distinct:
                return found and _of_documents(found, bucket)
        count *= 2


def _is_close(rounded, lengths, ranks, cost):
    """Whether rounding adds at most half of what the ranks have room for beyond the true lengths."""
    return rounded.sum() <= (lengths.sum() + ranks * cost.capacity) / 2


def buckets(lengths: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(boundaries ascending, the bucket of each length): at most `count`, with the least sum of boundary - length.

    An exact dynamic program over the distinct lengths.
    """
    distinct, at, number = np.unique(lengths, return_inverse=True, return_counts=True)
    count, n = min(count, len(distinct)), len(distinct)
    upto = np.concatenate([[0], np.cumsum(number)])
    # to have the lengths j .. i in one bucket costs boundary[i] each; their own sum is the same in all solutions
    price = np.where(np.tri(n, dtype=bool), distinct[:, None] * (upto[1:, None] - upto[None, :-1]), np.inf)
    best, last = np.append(0.0, np.full(n, np.inf)), []
    for _ in range(count):
        ways = best[None, :-1] + price
        last.append(ways.argmin(axis=1))
        best = np.append(0.0, ways.min(axis=1))
    edges, end = [], n
    for step in reversed(last):
        if end:
            edges.append(end - 1)
            end = int(step[end - 1])
    edges = np.array(edges[::-1])
    return distinct[edges], np.searchsorted(edges, at)


def _program(boundary, size, ranks, cost):
    """[(ranks, documents of each bucket)] of the integer program's groups; None where HiGHS finds none.

    The groups are all powers of two that fit, as many copies as fit; of copies, the first are used first.
    """
    sizes, seconds, slots = batches.times(boundary, ranks, cost)
    kind = np.repeat(np.arange(len(sizes)), [ranks // degree for degree in sizes])
    time, degree = seconds[kind].T, np.array(sizes)[kind]  # [buckets, groups], [groups]
    able = np.isfinite(time)
    rules = _rules(np.where(able, time, 0.0), np.where(able, slots[kind].T, 0), size, degree, (ranks, cost.capacity))
    # variables: the documents of each bucket in each group, whether a group is used, the time of the slowest
    most = np.concatenate([np.where(able, size[:, None], 0).ravel(), np.ones(len(kind)), [np.inf]])
    goal = np.append(np.zeros(len(most) - 1), 1.0)
    result = milp(
        goal,
        integrality=1 - goal,
        bounds=Bounds(np.zeros(len(most)), most),  # pyright: ignore[reportArgumentType]
        constraints=[LinearConstraint(*rule) for rule in rules if rule[0].shape[0]],
        options={"time_limit": SECONDS, "node_limit": NODES, "mip_rel_gap": GAP},
    )
    if result.x is None:
        return None
    chosen = np.rint(result.x[: able.size]).astype(np.int64).reshape(able.shape)
    return [(int(degree[g]), chosen[:, g]) for g in np.flatnonzero(chosen.sum(0))]


def _rules(time, slots, size, degree, limits):
    """The constraints of the integer program: [(matrix, least, most)].

    time, slots: [buckets, groups], 0 where a document does not fit. limits: ranks, and tokens of one.
    """
    ranks, capacity = limits
    (K, G), copies = time.shape, np.flatnonzero(np.diff(degree) == 0)
    groups, chosen, slowest = np.arange(G), np.arange(K * G), K * G + G
    per_group, ones = np.tile(groups, K), np.ones(K * G)

    def rule(rows, parts, least, most):
        """(matrix of so many rows, least, most); parts: (rows, columns, values) of entries."""
        row, column, value = (np.concatenate([np.ravel(part[i]) for part in parts]) for i in range(3))
        return csr_array((value.astype(float), (row, column)), shape=(rows, slowest + 1)), least, most

    used = lambda factor: (groups, K * G + groups, np.full(G, factor))
    first = np.arange(len(copies)), K * G + copies, np.ones(len(copies))
    second = first[0], first[1] + 1, -first[2]
    return [
        rule(K, [(np.repeat(np.arange(K), G), chosen, ones)], size, size),
        rule(G, [(per_group, chosen, slots), used(-capacity)], -np.inf, 0),
        rule(G, [(per_group, chosen, time), (groups, np.full(G, slowest), -np.ones(G))], -np.inf, 0),
        rule(G, [(per_group, chosen, ones), used(-size.sum())], -np.inf, 0),
        rule(len(copies), [first, second], 0, np.inf),
        rule(1, [(np.zeros(G, int), K * G + groups, degree)], 0, ranks),
    ]


def _of_documents(found, bucket):
    """Groups with documents in place of numbers of each bucket."""
    waiting = [np.flatnonzero(bucket == k) for k in range(bucket.max() + 1)]
    taken, groups = np.zeros(len(waiting), np.int64), []
    for degree, number in found:
        groups.append((degree, np.concatenate([w[t : t + n] for w, t, n in zip(waiting, taken, number, strict=True)])))
        taken += number
    return groups
