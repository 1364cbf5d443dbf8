"""What longctx does: rows of packed documents, each laid out over context shards such that all have equal work."""

import math

import numpy as np

from longctx.data.dealing import deal
from longctx.data.packing import best_fit
from longctx.errors import UserError
from longctx.layouts import CAUSAL
from longctx.layouts.balanced import plan as owners
from longctx.placing.cost import Cost, pairs
from longctx.placing.placement import PADDING, Draft, Placement, measure

WIDTH = 256  # of chunks, as in the layout balanced(256); less where shards are smaller


Rows = list[np.ndarray]  # the documents of each


def plan(lengths: np.ndarray, ranks: int, cost: Cost, rows: Rows | None = None) -> Placement:
    """Rows by data.packing="best_fit", unless they are given, dealt to data-parallel groups (longctx.data.dealing) that
    take turns over steps, each row over the group's ranks by the layout balanced(256) (longctx.layouts.balanced.plan).

    Tokens, their linear layers and their queries lie on one rank; keys are received by need, as the strategy `dispatch`
    does. Of the meshes (data-parallel groups x context shards) whose shards fit, the one that takes least time.
    """
    rows = rows or packed(lengths, cost)
    fits = [
        groups
        for groups in range(1, ranks + 1)
        if ranks % groups == 0 and cost.row % (shards := ranks // groups) == 0 and cost.row // shards <= cost.capacity
    ]
    if not fits:
        raise _refused(ranks, cost)
    found = [on_mesh(rows, lengths, groups, ranks // groups, cost.row) for groups in reversed(fits)]
    return min(found, key=lambda placement: measure(placement, cost).seconds)


def on_mesh(rows: Rows, lengths: np.ndarray, groups: int, shards: int, row: int) -> Placement:
    """The Placement of rows, given by their documents, on a mesh of data-parallel groups of context shards."""
    turns = -(-len(rows) // groups)
    rows = [*rows, *[np.zeros(0, np.int64)] * (turns * groups - len(rows))]
    work = np.array([pairs(lengths[documents]).sum() for documents in rows])
    group, draft, turn = deal(work, groups), Draft(groups * shards), [0] * groups
    for number in np.argsort(-work, kind="stable"):
        at = group[number]
        _lay_out(draft, [rows[number]], lengths, at * shards + np.arange(shards), turn[at], row)
        turn[at] += 1
    return draft.done(turns)


def across_rows(lengths: np.ndarray, ranks: int, cost: Cost, rows: Rows | None = None) -> Placement:
    """The layout balanced(256) of all rows of a step as one row, over all ranks, as with attention.across_rows: of as
    many rows at a time as leave fewest padded."""
    rows = rows or packed(lengths, cost)
    fits = [
        (-(-len(rows) // together) * together * cost.row // ranks, -together)
        for together in range(1, len(rows) + 1)
        if together * cost.row % ranks == 0 and together * cost.row // ranks <= cost.capacity
    ]
    if not fits:
        raise _refused(ranks, cost)
    together, draft = -min(fits)[1], Draft(ranks)
    turns = -(-len(rows) // together)
    rows = [*rows, *[np.zeros(0, np.int64)] * (turns * together - len(rows))]
    for turn in range(turns):
        of_turn = rows[turn * together : (turn + 1) * together]
        _lay_out(draft, of_turn, lengths, np.arange(ranks), turn, cost.row)
    return draft.done(turns, together=ranks > 1)


def packed(lengths: np.ndarray, cost: Cost) -> Rows:
    """The rows of data.packing="best_fit". Raises UserError for one that is longer than a row."""
    if lengths.max() > cost.row:
        raise UserError(f"row={cost.row} tokens is less than a document of {lengths.max()}; row={lengths.max()} works.")
    packing = best_fit.pack(lengths, cost.row)
    return np.split(packing.document, packing.row_start[1:-1])


def _refused(ranks, cost):
    least = math.lcm(cost.row, ranks) // ranks
    return UserError(
        f"capacity={cost.capacity} tokens a rank: rows of {cost.row} tokens do not divide evenly over {ranks} ranks "
        f"within it; a row that {ranks} divides and a capacity from {least} on would."
    )


def _lay_out(draft, rows, lengths, ranks, step, row):
    """Adds rows, one after another, each filled up with padding, over the given ranks."""
    document = np.concatenate([np.append(of_row, PADDING) for of_row in rows])
    size = np.concatenate([np.append(lengths[of_row], row - lengths[of_row].sum()) for of_row in rows])
    document, size = document[size > 0], size[size > 0]
    start, total = np.cumsum(size) - size, int(size.sum())
    width = math.gcd(WIDTH, total // len(ranks))
    numbers = np.arange(1, len(document) + 1)
    segments = np.repeat(np.where(document == PADDING, 0, numbers), size)
    owner = owners(segments, len(ranks), width, CAUSAL)
    # neighbouring chunks of a document on one rank are one run
    cuts = np.flatnonzero(np.diff(owner, prepend=-1)) * width
    edge = np.union1d(start, cuts)
    at = np.searchsorted(start, edge, side="right") - 1
    first = edge - start[at]
    runs = np.stack([document[at], first, first + np.diff(edge, append=total), ranks[owner[edge // width]]])
    draft.home(*runs, step)
    draft.attend(*runs[:, runs[0] != PADDING], step)
